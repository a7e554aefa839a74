"""Small dense linear algebra that says what it had to do."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from jkofilter._typing import Matrix
from jkofilter.errors import NumericalError


def symmetrised(matrix: Tensor) -> Tensor:
    """(M + M') / 2 over the last two axes."""
    return 0.5 * (matrix + matrix.mT)


def by_columns(x: Tensor) -> Tensor:
    """The same tensor (..., n, d), laid out in memory coordinate by coordinate."""
    return x.mT.contiguous().mT


def times(x: Tensor, matrix: Matrix) -> Tensor:
    """x @ matrix for points (..., d); of (n, d) the outcome lies ``by_columns``.

    So it takes a fraction of the time where d is small: BLAS are slow at tall products.
    """
    return (matrix.mT @ x.mT).mT if x.ndim == 2 else x @ matrix


def safe_cholesky(matrix: Matrix) -> tuple[Matrix, float]:
    """Lower Cholesky factor of a symmetric matrix, with the least jitter that makes it succeed.

    Args:
        matrix: symmetric, (d, d).

    Returns:
        The factor, (d, d), and the jitter that was added to the diagonal: zero where none was needed, else a power
        of ten times the mean absolute diagonal.

    Raises:
        NumericalError: not finite, or too far from positive definite for a jitter of 1e-4 of the diagonal.
    """
    if not torch.isfinite(matrix).all():
        raise NumericalError("a covariance has NaN or infinite entries.")
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() == 0:
        return factor, 0.0
    # A zero matrix has no scale of its own; one unit is then as good as any.
    scale = torch.diagonal(matrix).abs().mean().item() or 1.0
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    for exponent in range(-14, -3):
        jitter = scale * 10.0**exponent
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * identity)
        if info.item() == 0:
            return factor, jitter
    raise NumericalError("a covariance is not positive definite, even with a jitter of 1e-4 of its diagonal.")


def spd_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite array (d, d), with the least jitter that makes it one.

    Raises:
        NumericalError: as ``safe_cholesky``.
    """
    factor, _ = safe_cholesky(symmetrised(torch.as_tensor(matrix)))
    return torch.cholesky_inverse(factor).numpy()


def gaussian_log_density(residuals: Tensor, covariance: Tensor) -> Tensor:
    """log N(residual; 0, covariance) of every residual: (..., p) under (p, p) gives (...)."""
    factor, _ = safe_cholesky(covariance)
    p = covariance.shape[0]
    columns = residuals.reshape(-1, p).mT
    # For one component a division, for which a triangular solve takes many times as long.
    whitened = columns / factor if p == 1 else torch.linalg.solve_triangular(factor, columns, upper=False)
    log_det = 2 * torch.log(torch.diagonal(factor)).sum()
    return -0.5 * (whitened.square().sum(0) + (log_det + p * math.log(2 * math.pi))).reshape(residuals.shape[:-1])


def weighted_moments(points: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of points (n, d) under normalised log weights (n,).

    The covariance carries the weighted Bessel factor 1 / (1 - sum w^2), so it is unbiased for equal weights.
    """
    weights = log_weights.exp()
    mean = weights @ points
    centred = points - mean
    spread = 1.0 - weights.square().sum().item()
    covariance = (weights.unsqueeze(-1) * centred).mT @ centred
    return mean, symmetrised(covariance / spread if spread > 1e-12 else covariance)


def with_moments(draws: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Draws (n, d), n above d, moved by one affine map to have exactly this mean (d,) and covariance (d, d)."""
    centred = draws - draws.mean(0)
    have, _ = safe_cholesky(centred.mT @ centred / len(draws))
    want, _ = safe_cholesky(covariance)
    white = torch.linalg.solve_triangular(have, centred.mT, upper=False)
    return mean + (want @ white).mT


def gaussian_prior_moments(prior: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean (d,) and covariance (d, d) of a MultivariateNormal or Independent(Normal, 1); None for anything else."""
    found = gaussian_moments(prior)
    return None if found is None else (found[0].detach(), found[1].detach())


def gaussian_moments(prior: Distribution) -> tuple[Tensor, Tensor] | None:
    """``gaussian_prior_moments``, differentiable by the prior's parameters."""
    if isinstance(prior, MultivariateNormal):
        return prior.mean, prior.covariance_matrix
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return prior.mean, torch.diag(prior.variance)
    return None
