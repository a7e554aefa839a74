"""Tridiagonal systems against dense ones."""

from __future__ import annotations

import numpy as np
import pytest

from jkofilter.numerics.tridiagonal import factorised, solved


@pytest.mark.parametrize("step", [1e-9, 1.0, 1e9])
def test_solutions_are_those_of_a_dense_solver(step: float) -> None:
    rng = np.random.default_rng(4)
    right, left = step * rng.exponential(size=19), step * rng.exponential(size=19)
    diagonal = 1.0 + np.append(right, 0.0) + np.append(0.0, left)
    dense = np.diag(diagonal) - np.diag(right, -1) - np.diag(left, 1)
    b = rng.exponential(size=20)
    found = solved(*factorised(-right, diagonal, -left), b)
    np.testing.assert_allclose(found, np.linalg.solve(dense, b), rtol=1e-6 if step > 1 else 1e-12)
    # Columns of the matrix sum to one, so that no mass is made.
    assert found.sum() == pytest.approx(b.sum(), rel=1e-6 if step > 1 else 1e-12)
