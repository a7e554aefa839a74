"""What a JKO filter is told at construction, and what it tells when a prediction fails."""

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


@pytest.mark.parametrize("d", [1, 2])
def test_a_failed_prediction_names_the_time_of_the_belief(d: int) -> None:
    # No step that is tried is short enough against this curvature.
    wild = jf.Potential(lambda x: -1e9 * x.square().sum(-1), d)
    filter = jf.JKOFilter(model(d, wild), step=0.5, scheme="implicit-euler", pool=64 if d > 1 else 4096)
    belief = replace(filter.init(gen()), time=2.0)
    with pytest.raises(jf.FilterError, match=r"^predicting from time 2: ") as caught:
        filter.predict(belief, 0.5, gen())
    assert "time 0" not in str(caught.value)
    after, info = replace(filter, on_failure="report").predict(belief, 0.5, gen())
    assert after is belief
    assert "time 2" in info.status
    assert info.status in str(caught.value)
