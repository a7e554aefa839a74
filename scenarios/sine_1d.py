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

MOKROV = "Mokrov et al. 2021"


def published(
    method: str, filter: str, figures: tuple[float, float, float], source: str = MOKROV
) -> list[jf.PublishedFigure]:
    """Medians of KL(filter, exact), KL(exact, filter) and seconds."""
    measures = ("kl_filter", "kl_reference", "seconds")
    return [jf.PublishedFigure(source, method, filter, *pair) for pair in zip(measures, figures, strict=True)]


PUBLISHED = (
    *published("ICNN-JKO, tau 0.1, on a GPU", "jko", (0.0082, 0.0088, 10_753.0)),
    jf.PublishedFigure(MOKROV, "ICNN-JKO, tau 0.1, on a GPU", "jko", "kl_filter", 0.19, statistic="worst"),
    jf.PublishedFigure(MOKROV, "ICNN-JKO, tau 0.1, on a GPU", "jko", "kl_reference", 0.38, statistic="worst"),
    *published("dual JKO (Frogner & Poggio 2020)", "jko", (0.0095, 0.0257, 6883.0)),
    *published("dual JKO (Frogner & Poggio 2020)", "dual-jko", (0.0095, 0.0257, 6883.0)),
    *published("bootstrap, 50,000 particles, KDE", "particle-kde", (0.0022, 0.0021, 16.0)),
    jf.PublishedFigure("prototype", "bootstrap, exact last transition", "particle-transition", "kl_filter", 9e-5),
    *published("1-D JKO, SDIRK2, tau 0.05, 400 nodes", "jko", (2e-7, 2e-7, 0.08), "prototype"),
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
        "tempered": jf.TemperedParticleFilter,
        "guided": jf.GuidedParticleFilter,
        "particle-kde": lambda model: jf.ParticleFilter(model, particles=50_000, density="kde"),
        "particle-transition": lambda model: jf.ParticleFilter(model, particles=50_000, density="transition"),
        "dual-jko": lambda model: jf.DualJKOFilter(model, settings=jf.DualSettings(points=600)),
        "proximal": jf.ProximalFilter,
        "spectral": jf.SpectralFilter,
        "grid": lambda model: jf.GridFilter(model, cells=8000, step=1e-3),
    },
    reference="grid",
    time_label="time",
    state_label="state x",
    reading_label="reading y",
    published=PUBLISHED,
)

if __name__ == "__main__":
    SCENARIO.main()
