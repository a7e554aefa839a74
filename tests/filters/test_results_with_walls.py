"""Results of laws with walls are saved and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

import jkofilter as jf


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("make", [lambda m: jf.GridFilter(m, cells=60), lambda m: jf.ParticleFilter(m, 200)])
def test_a_law_with_walls_comes_back_from_its_file(dim: int, make: type, tmp_path: Path) -> None:
    eye = torch.eye(dim).double()
    flat = jf.Potential(lambda x: 0 * x[..., 0], dim, domain=((0, 3), (0, 2))[:dim] if dim > 1 else (0, 3))
    prior = MultivariateNormal(torch.ones(dim).double(), 0.03 * eye)
    model = jf.StateSpaceModel(prior, jf.LangevinSDE(flat), jf.LinearGaussian(eye, eye))
    result = make(model).run(jf.ObservationSeries([0.1], torch.ones(1, dim)), keep_beliefs=True)
    result.save(tmp_path / "walls.pt")
    back = jf.FilterResult.load(tmp_path / "walls.pt").final
    assert back.walls == result.final.walls is not None
    x = torch.full((1, dim), 1.2).double()
    assert torch.equal(back.log_prob(x), result.final.log_prob(x))
    assert back.log_prob(torch.full((1, dim), 3.5).double()).item() == -torch.inf
