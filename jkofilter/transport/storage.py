"""Priors and maps as plain tensors, which torch reads without running any code."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from jkofilter.errors import InputError
from jkofilter.transport.convex import ConvexPotential
from jkofilter.transport.icnn import ICNN
from jkofilter.transport.ridge import RidgeSpline

_KINDS: dict[str, type[RidgeSpline] | type[ICNN]] = {"RidgeSpline": RidgeSpline, "ICNN": ICNN}


def encoded_map(psi: ConvexPotential) -> dict[str, Any]:
    """Kind and parameters.

    Raises:
        InputError: a potential of the user's own.
    """
    kind = type(psi).__name__
    if kind not in _KINDS:
        raise InputError(f"a flow with maps of type {kind} cannot be saved; only {', '.join(_KINDS)} can.")
    return {"kind": kind, "parameters": dict(psi.parameters())}


def decoded_map(entry: dict[str, Any]) -> ConvexPotential:
    """The inverse of ``encoded_map``."""
    return _KINDS[entry["kind"]].from_parameters(entry["parameters"])


def encoded_prior(prior: Distribution) -> dict[str, Any] | None:
    """Mean and Cholesky factor of a Gaussian, or those and the weights of a mixture; None for anything else."""
    if isinstance(prior, MultivariateNormal):
        return {"kind": "normal", "mean": prior.loc, "factor": prior.scale_tril}
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return {"kind": "normal", "mean": prior.mean, "factor": torch.diag(prior.stddev)}
    if isinstance(prior, MixtureSameFamily) and isinstance(prior.component_distribution, MultivariateNormal):
        components = prior.component_distribution
        logits = prior.mixture_distribution.logits
        return {"kind": "mixture", "mean": components.loc, "factor": components.scale_tril, "logits": logits}
    return None


def decoded_prior(entry: dict[str, Any] | None) -> Distribution | None:
    """The inverse of ``encoded_prior``."""
    if entry is None:
        return None
    normal = MultivariateNormal(entry["mean"], scale_tril=entry["factor"])
    return normal if entry["kind"] == "normal" else MixtureSameFamily(Categorical(logits=entry["logits"]), normal)
