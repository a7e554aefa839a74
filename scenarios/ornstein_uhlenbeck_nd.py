"""Ornstein-Uhlenbeck processes with random precisions in 1 to 32 dimensions, against their exact Gaussian law.

The setting of Mokrov et al. (NeurIPS 2021, figure 3): prior N(0, I), V(x) = (x - b)' A (x - b) / 2 with a random
symmetric positive definite A, judged at t = 0.5 and 0.9 by the symmetric KL divergence.
"""

import torch

import jkofilter as jf

DIMS = (*range(1, 13), 32)
STEP = 0.05
LIMITS = {"dual JKO": 8, "proximal recursion": 4}
SOURCE = "Mokrov et al. 2021"
SYMMETRIC_KL = {
    0.5: {1: 0.0007, 4: 0.0081, 8: 0.0148, 12: 0.0263},
    0.9: {1: 0.0005, 4: 0.0083, 8: 0.0103, 12: 0.0191},
}
PUBLISHED = (
    *(
        jf.PublishedFigure(SOURCE, "ICNN-JKO", "JKO SDIRK2", "symmetric_kl", value, f"d = {d}", time)
        for time, figures in SYMMETRIC_KL.items()
        for d, value in figures.items()
    ),
    *(
        jf.PublishedFigure(SOURCE, "ICNN-JKO, on a GPU", "JKO SDIRK2", "seconds", seconds, f"d = {d}")
        for d, seconds in {1: 300.0, 12: 860.0}.items()
    ),
    jf.PublishedFigure(SOURCE, "EM, 50,000 particles, KDE", "particles + KDE", "symmetric_kl", 3.8, "d = 12"),
    jf.PublishedFigure(
        "floor, closed form", "exact JKO steps", "JKO implicit Euler", "symmetric_kl", 7e-4, "d = 12", 0.9
    ),
    jf.PublishedFigure("floor, closed form", "second-order steps", "JKO SDIRK2", "symmetric_kl", 1e-6, "d = 12", 0.9),
)


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(mean, covariance)


def floor(precision: torch.Tensor, centre: torch.Tensor, exact: jf.GaussianBelief) -> float:
    """Symmetric KL of exact implicit Euler JKO steps at the exact law's time: in the eigenbasis every step is closed.

    A step maps each coordinate by T = (1 + tau a)^-1 (1/2 + (1/4 + tau (1 + tau a)/s)^(1/2)), s its variance.
    """
    a, basis = torch.linalg.eigh(precision)
    towards, mean, s = centre @ basis, torch.zeros_like(a), torch.ones_like(a)
    for _ in range(round(exact.time / STEP)):
        mean = (mean + STEP * a * towards) / (1 + STEP * a)
        s = s * ((0.5 + (0.25 + STEP * (1 + STEP * a) / s).sqrt()) / (1 + STEP * a)).square()
    true_mean, true_s = exact.mean @ basis, (basis.mT @ exact.covariance @ basis).diagonal()
    gap = (mean - true_mean).square() * (1 / s + 1 / true_s)
    return 0.5 * (s / true_s + true_s / s - 2 + gap).sum().item()


def case(d: int) -> jf.FlowCase:
    generator = torch.Generator().manual_seed(d)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    precision = root @ root.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)
    centre = torch.randn(d, generator=generator, dtype=torch.float64)
    eye = torch.eye(d, dtype=torch.float64)

    def exact(time: float) -> jf.GaussianBelief:
        decay = torch.linalg.matrix_exp(-precision * time)
        covariance = decay @ decay + torch.linalg.inv(precision) @ (eye - decay @ decay)
        return jf.GaussianBelief(time, centre - decay @ centre, 0.5 * (covariance + covariance.mT))

    note = f"exact implicit Euler steps of {STEP} are {floor(precision, centre, exact(0.9)):.1e} off at t = 0.9"
    prior, sde = gaussian(torch.zeros(d, dtype=torch.float64), eye), jf.LangevinSDE(jf.Quadratic(centre, precision))
    return jf.FlowCase(f"d = {d}", prior, sde, (0.5, 0.9), exact=exact, note=note)


SCENARIO = jf.FlowStudy(
    name="ornstein_uhlenbeck_nd",
    cases=[case(d) for d in DIMS],
    methods={
        "JKO SDIRK2": jf.jko(STEP),
        "JKO BDF2": jf.jko(STEP, "bdf2"),
        "JKO implicit Euler": jf.jko(STEP, "implicit-euler"),
        "dual JKO": jf.dual_jko(STEP, jf.DualSettings(points=3000, ridge=0.1)),
        "proximal recursion": jf.proximal(STEP, jf.ProximalSettings(points=2000, regularisation=1.9)),
        "particles + KDE": jf.particles(substep=5e-3),
    },
    # Both weigh points by densities estimated on the points themselves, which fails as the dimension grows.
    skip=frozenset((method, f"d = {d}") for method, most in LIMITS.items() for d in DIMS if d > most),
    published=PUBLISHED,
    description="Ornstein-Uhlenbeck with a random precision, steps of 0.05",
)

if __name__ == "__main__":
    SCENARIO.main()
