"""Priors, maps and beliefs as plain tensors, which torch reads without running any code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from jkofilter.beliefs import BELIEF_TYPES
from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.path import Origin, PathBelief
from jkofilter.beliefs.product import ProductBelief
from jkofilter.errors import InputError
from jkofilter.files import DamagedError, Table
from jkofilter.numerics.domain import Domain
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.fitted_law import FittedLaw
from jkofilter.transport.maps.convex import ConvexPotential, Pool
from jkofilter.transport.maps.icnn import ICNN
from jkofilter.transport.maps.ridge import RidgeSpline
from jkofilter.transport.maps.soft_maximum import SoftMaximum

_KINDS: dict[str, type[RidgeSpline] | type[ICNN] | type[SoftMaximum]] = {
    "RidgeSpline": RidgeSpline,
    "ICNN": ICNN,
    "SoftMaximum": SoftMaximum,
}


_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What torch raises for tensors of shapes and types that do not go together."""


def encoded_map(psi: ConvexPotential) -> dict[str, Any]:
    """Kind and parameters.

    Raises:
        InputError: a potential of the user's own.
    """
    kind = type(psi).__name__
    if kind not in _KINDS:
        raise InputError(f"a flow with maps of type {kind} cannot be saved; only {', '.join(_KINDS)} can.")
    return {"kind": kind, "parameters": dict(psi.parameters())}


def decoded_map(entry: Table) -> ConvexPotential:
    """The inverse of ``encoded_map``.

    Raises:
        DamagedError: an entry is missing or of another kind.
    """
    parameters = entry.table("parameters")
    if not all(isinstance(value, torch.Tensor) for value in parameters.values()):
        raise DamagedError("'parameters' of a map holds something else than tensors")
    kind = entry.one_of("kind", _KINDS)
    try:
        psi = kind.from_parameters(parameters)
        fit = _maps_points(psi, parameters)
    except DamagedError:
        raise
    except _MISFITS as error:
        raise DamagedError("the 'parameters' of a map do not belong together") from error
    if not fit:
        raise DamagedError("the 'parameters' of a map do not belong together")
    return psi


def _maps_points(psi: ConvexPotential, parameters: Table) -> bool:
    """Whether a map takes points to points."""
    # As many of them as no axis is long, so that nothing fits by being spread.
    most = max(max(one.shape, default=0) for one in parameters.values())
    here = next(iter(parameters.values())).new_zeros(most + 1, psi.dim)
    with warnings.catch_warnings():
        # Of axes swapped that are not there.
        warnings.simplefilter("ignore")
        return psi.gradient(here).shape == here.shape and bool(psi.hessian(here).isfinite().all())


def encoded_prior(prior: Distribution) -> dict[str, Any] | None:
    """What determines a Gaussian, a mixture of Gaussians or a law carried to the normal; None for anything else."""
    if isinstance(prior, FittedLaw):
        layers = [encoded_map(phi) for phi in prior.layers]
        return {"kind": "fitted law", "mean": prior.centre, "root": prior.root, "layers": layers}
    normal = _normal(prior)
    if normal is not None:
        return {"kind": "normal", "mean": normal[0], "factor": normal[1]}
    if isinstance(prior, MixtureSameFamily):
        components = _normal(prior.component_distribution)
        if components is not None:
            logits = prior.mixture_distribution.logits
            return {"kind": "mixture", "mean": components[0], "factor": components[1], "logits": logits}
    return None


def _normal(law: Distribution) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and Cholesky factor, (..., d) and (..., d, d), of one Gaussian or a batch of them."""
    if isinstance(law, MultivariateNormal):
        return law.loc, law.scale_tril
    if isinstance(law, Independent) and isinstance(law.base_dist, Normal) and law.reinterpreted_batch_ndims == 1:
        return law.mean, torch.diag_embed(law.stddev)
    return None


def decoded_prior(entry: Table) -> Distribution:
    """The inverse of ``encoded_prior``.

    Raises:
        DamagedError: an entry is missing or of another kind.
    """
    decode = entry.one_of("kind", _PRIORS)
    try:
        prior = decode(entry)
        (d,) = prior.event_shape
        fit = prior.log_prob(entry.of("mean", torch.Tensor).new_zeros(d + 1, d)).shape == (d + 1,)
    except DamagedError:
        raise
    except _MISFITS as error:
        raise DamagedError("the tensors of a prior do not belong together") from error
    if not fit or d == 0:
        raise DamagedError("the tensors of a prior do not belong together")
    return prior


def _decoded_fitted(entry: Table) -> Distribution:
    layers = tuple(decoded_map(layer) for layer in entry.tables("layers"))
    return FittedLaw(entry.of("mean", torch.Tensor), entry.of("root", torch.Tensor), layers)


def _decoded_normal(entry: Table) -> Distribution:
    return MultivariateNormal(entry.of("mean", torch.Tensor), scale_tril=entry.of("factor", torch.Tensor))


def _decoded_mixture(entry: Table) -> Distribution:
    return MixtureSameFamily(Categorical(logits=entry.of("logits", torch.Tensor)), _decoded_normal(entry))


_PRIORS: dict[str, Callable[[Table], Distribution]] = {
    "fitted law": _decoded_fitted,
    # What the first files call it.
    "pulled back": _decoded_fitted,
    "normal": _decoded_normal,
    "mixture": _decoded_mixture,
}


def encoded_belief(belief: Belief) -> dict[str, Any]:
    """Kind and everything in it.

    Raises:
        InputError: its maps or its prior are of a kind that is not stored.
    """
    content = {field.name: getattr(belief, field.name) for field in fields(belief)}  # type: ignore[arg-type]
    if content.get("walls") is not None:
        content["walls"] = [list(side) for side in content["walls"].sides]
    if isinstance(belief, PathBelief) and belief.origin is not None:
        content["origin"] = {field.name: getattr(belief.origin, field.name) for field in fields(belief.origin)}
    if isinstance(belief, ProductBelief):
        content["marginals"] = [encoded_belief(one) for one in belief.marginals]
    if isinstance(belief, TransportBelief):
        content["prior"] = encoded_prior(belief.prior)
        if content["prior"] is None:
            raise InputError(
                f"prior of type {type(belief.prior).__name__} cannot be saved; only Gaussians, mixtures of them and "
                "laws fitted after a reading can."
            )
        content["maps"] = [encoded_map(psi) for psi in belief.maps]
        content["pool"] = {field.name: getattr(belief.pool, field.name) for field in fields(belief.pool)}
    return {"type": type(belief).__name__, "fields": content}


def decoded_belief(entry: Table) -> Belief:
    """The inverse of ``encoded_belief``.

    Raises:
        DamagedError: an entry is missing or of another kind.
    """
    kind, content = entry.one_of("type", _BELIEFS), entry.table("fields")
    if content.get("walls") is not None:
        content["walls"] = Domain(tuple((low, high) for low, high in content["walls"]))
    if kind is PathBelief and content.get("origin") is not None:
        content["origin"] = content.table("origin").built(Origin)
    if kind is ProductBelief:
        content["marginals"] = tuple(decoded_belief(one) for one in content.tables("marginals"))
    if kind is TransportBelief:
        content["prior"] = decoded_prior(content.table("prior"))
        content["maps"] = tuple(decoded_map(psi) for psi in content.tables("maps"))
        content["pool"] = pool = content.table("pool").built(Pool)
        if {content["prior"].event_shape[0], *(psi.dim for psi in content["maps"])} != {pool.x.shape[1]}:
            raise DamagedError("prior, maps and pool do not belong together")
    return content.built(kind)


_BELIEFS: dict[str, type[Belief]] = {
    **BELIEF_TYPES,
    ProductBelief.__name__: ProductBelief,
    TransportBelief.__name__: TransportBelief,
}
