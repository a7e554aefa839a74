"""Options and models shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_scenarios import SMALL
from torch.distributions import Independent, Normal

import jkofilter as jf


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", default=False, help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture
def ou_model() -> jf.StateSpaceModel:
    """dX = -1.3 (X - 0.4) dt + sqrt(2/1.7) dW, X_0 ~ N(-0.5, 0.8^2), y = X + N(0, 0.5^2)."""
    return jf.StateSpaceModel(
        Independent(Normal(torch.tensor([-0.5]).double(), torch.tensor([0.8]).double()), 1),
        jf.LangevinSDE(jf.Quadratic([0.4], [[1.3]]), beta=1.7),
        jf.LinearGaussian([[1.0]], [[0.25]]),
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a small scenario."""
    file = tmp_path / "small.py"
    file.write_text(SMALL)
    return file
