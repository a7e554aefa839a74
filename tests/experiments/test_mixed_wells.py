"""The stored reference of the wells with mixed readings against what can be computed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import jkofilter as jf

FILE = Path(__file__).parents[2] / "scenarios" / "double_well_mixed_nd.py"


@pytest.mark.slow
def test_the_stored_reference_of_the_plane_is_the_grid_filter() -> None:
    study: Any = jf.Scenario.load(FILE)
    scenario = study.scenarios[0]
    stored = jf.run_filter(scenario.filters["reference"](scenario.model), scenario.series)
    grid = jf.GridFilter(scenario.model, cells=200, step=0.01).run(scenario.series)
    deviations = torch.diagonal(grid.covariances, dim1=-2, dim2=-1).sqrt()
    # Five runs of 20,000, effective to a quarter; and the grid's cells.
    assert ((stored.means - grid.means) / deviations).abs().max() < 5 / math.sqrt(5 * 20_000 / 4) + 0.01
    assert abs(stored.final.log_evidence - grid.final.log_evidence) < 0.08


def test_readings_that_mix_do_not_turn_with_the_wells() -> None:
    study: Any = jf.Scenario.load(FILE)
    for scenario in study.scenarios:
        turn = scenario.model.sde.potential.rotation
        seen = scenario.model.observation.matrix @ turn.mT
        # Each component of a reading depends on several wells.
        assert (seen.abs().max(-1).values < 0.99).all()
