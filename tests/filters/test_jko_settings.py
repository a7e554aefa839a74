"""What a JKO filter is told at construction, and what it tells when a prediction fails."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def model(d: int, potential: jf.Potential | None = None) -> jf.StateSpaceModel:
    zero, eye = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    sde = jf.LangevinSDE(potential or jf.Quadratic(zero, eye))
    return jf.StateSpaceModel(MultivariateNormal(zero, eye), sde, jf.LinearGaussian(eye, eye))


@pytest.mark.slow
def test_soft_maxima_relax_to_a_mixture_and_take_in_a_reading() -> None:
    """After a long time the law is the stationary mixture of two wells, which a reading updates in closed form."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    law = jf.GaussianMixture(means, 0.5 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2), torch.ones(2))
    filter = jf.JKOFilter(model(2, law), step=0.25, transport="soft-maximum", pool=512)
    belief, info = filter.predict(filter.init(gen()), 4.0, gen())
    assert info.status == "ok"
    # The variance along the first axis is 0.5 within a component and 1 between them; 512 particles tell it to 0.1.
    torch.testing.assert_close(torch.diagonal(belief.covariance), torch.tensor([1.5, 0.5]).double(), rtol=0, atol=0.1)
    after, info = filter.update(belief, torch.tensor([1.0, 0.0]).double(), gen())
    assert info.status == "ok"
    # The wells answer y = 1 with means 1 and -1/3; their evidences are N(1; 1, 1.5) and N(1; -1, 1.5). The posterior's
    # deviation is 0.8, which leaves a mean of 512 particles an error of 0.035.
    right = 1 / (1 + math.exp(-4 / 3))
    assert after.mean[0].item() == pytest.approx(right - (1 - right) / 3, abs=0.1)


@pytest.mark.parametrize(("d", "settings"), [(1, {}), (2, {"pool": 64})], ids=["quantile", "ridge"])
def test_a_failed_prediction_names_the_time_of_the_belief(d: int, settings: dict[str, int]) -> None:
    # No step that is tried is short enough against this curvature.
    wild = jf.Potential(lambda x: -1e9 * x.square().sum(-1), d)
    filter = jf.JKOFilter(model(d, wild), step=0.5, scheme="implicit-euler", **settings)  # type: ignore[arg-type]
    belief = replace(filter.init(gen()), time=2.0)
    with pytest.raises(jf.FilterError, match=r"^predicting from time 2: ") as caught:
        filter.predict(belief, 0.5, gen())
    assert "time 0" not in str(caught.value)
    after, info = replace(filter, on_failure="report").predict(belief, 0.5, gen())
    assert after is belief
    assert "time 2" in info.status
    assert info.status == str(caught.value)
