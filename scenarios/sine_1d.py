"""The published one-dimensional experiment: a rough potential, nine noisy readings.

V = sin(2 pi x)/pi + x^2/4, beta 1, prior N(0, 1), readings y = x + N(0, 1) at 0.5, 1.0, ..., 4.5, judged at t = 5 over
15 seeds: section 5.4 of Mokrov et al., Large-Scale Wasserstein Gradient Flows (NeurIPS 2021), whose own filter took
10,753 seconds on a GPU for KL .0082. The reference is a Chang-Cooper grid fine enough to count as exact.
"""

import torch

import jkofilter as jf

MODEL = jf.StateSpaceModel(
    prior=torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double()),
    sde=jf.LangevinSDE(jf.SineQuadratic(1), beta=1.0),
    observation=jf.LinearGaussian([[1.0]], [[1.0]]),
)

SCENARIO = jf.Scenario(
    name="sine_1d",
    description="a hidden walker in V = sin(2 pi x)/pi + x^2/4, seen with unit noise",
    model=MODEL,
    times=[0.5 * k for k in range(1, 10)],
    until=5.0,
    seeds=15,
    filters={
        "jko": jf.JKOFilter,
        "particle-kde": lambda model: jf.ParticleFilter(model, particles=50_000, density="kde"),
        "particle-transition": lambda model: jf.ParticleFilter(model, particles=50_000, density="transition"),
        "grid": lambda model: jf.GridFilter(model, cells=8000, step=1e-3),
    },
    reference="grid",
    time_label="time",
    state_label="state x",
    reading_label="reading y",
)

if __name__ == "__main__":
    SCENARIO.main()
