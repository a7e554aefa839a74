"""A rotated product of double wells seen in full, d = 2 to 32: five readings, noise 0.5, one every 0.5.

V(x) = sum_i v((R x)_i) with v(u) = (u^2 - 1)^2, prior N(0, I), readings y = R x + noise. In u = R x the problem
separates, so that one grid filter a coordinate gives posterior and evidence exactly, in any dimension; the filters are
not told.
"""

import torch

import jkofilter as jf

DIMS = (2, 4, 8, 16, 32)
NOISE = 0.5
TIMES = [0.5, 1.0, 1.5, 2.0, 2.5]
SUBSTEP = 0.01


def rotation(d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(d)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def model(d: int) -> jf.StateSpaceModel:
    eye = torch.eye(d, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=torch.float64), eye)
    turn = rotation(d)
    sensor = jf.LinearGaussian(turn, NOISE**2 * eye)
    return jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(d, rotation=turn)), sensor)


def exact(whole: jf.StateSpaceModel) -> jf.ProductFilter:
    d = whole.dim
    one = torch.eye(1, dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(1, dtype=torch.float64), one)
    line = jf.StateSpaceModel(prior, jf.LangevinSDE(jf.DoubleWell(1)), jf.LinearGaussian(one, NOISE**2 * one))
    return jf.ProductFilter(whole, rotation(d), (jf.GridFilter(line, cells=1500, step=5e-3),) * d)


def jko(whole: jf.StateSpaceModel) -> jf.JKOFilter:
    d = whole.dim
    # As many ridges as dimensions, one solve a step: quick, and good to about a hundredth of a nat at d = 32.
    cells, step = (16, 0.125) if d <= 8 else (12, 0.25)
    steps = jf.RidgeEngine(cells=cells, directions=d, refinements=0)
    update = jf.UpdateSettings(engine=jf.RidgeEngine(cells=10, directions=d))
    return jf.JKOFilter(whole, step=step, pool=2500, transport=steps, assimilation=update)


def case(d: int) -> jf.Scenario:
    # A grid of the whole law is to be had on the plane alone.
    grid = {"grid": lambda m: jf.GridFilter(m, cells=150, step=0.01)} if d == 2 else {}
    return jf.Scenario(
        name=f"d = {d}",
        model=model(d),
        filters={
            "JKO": jko,
            "tempered": jf.TemperedParticleFilter,
            "guided": jf.GuidedParticleFilter,
            "block": lambda m: jf.BlockParticleFilter(m, rotation=rotation(d)),
            "particles, 100000": lambda m: jf.ParticleFilter(m, 100_000, substep=SUBSTEP),
            "ensemble Kalman": lambda m: jf.EnsembleKalmanFilter(m, 10_000, substep=SUBSTEP),
            "unscented Kalman": jf.UnscentedKalmanFilter,
            **grid,
            "exact": exact,
        },
        matched={
            "tempered, same time": jf.TemperedParticleFilter,
            "particles, same time": lambda m, n: jf.ParticleFilter(m, n, substep=SUBSTEP),
        },
        reference="exact",
        times=TIMES,
        seeds=5,
        kl=False,
    )


def prototype(method: str, ours: str, measure: str, value: float, statistic: str = "median") -> jf.PublishedFigure:
    return jf.PublishedFigure("prototype", method, ours, measure, value, "d = 16", statistic=statistic)


BOOTSTRAP = ("bootstrap, 300,000 particles", "particles, 100000")
JKO = ("JKO, 16,384 particles", "JKO")
PUBLISHED = (
    prototype(*BOOTSTRAP, "mean_error", 0.3, "least"),
    prototype(*BOOTSTRAP, "mean_error", 0.6, "worst"),
    prototype(*BOOTSTRAP, "log_evidence_error", 0.4, "least"),
    prototype(*BOOTSTRAP, "log_evidence_error", 3.7, "worst"),
    prototype(*BOOTSTRAP, "least_ess", 3.0, "least"),
    prototype(*BOOTSTRAP, "least_ess", 6.0, "worst"),
    prototype(*JKO, "mean_error", 0.2),
    prototype(*JKO, "log_evidence_error", 1.2),
    prototype(*JKO, "seconds", 60.0),
)

SCENARIO = jf.FilterStudy(
    name="double_well_filter_nd",
    scenarios=[case(d) for d in DIMS],
    published=PUBLISHED,
    description="rotated double wells seen in full, five readings with noise 0.5",
)

if __name__ == "__main__":
    SCENARIO.main()
