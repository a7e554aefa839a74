"""Flows as files of plain tensors, which torch reads without running any code."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.transport.belief import prior_pool
from jkofilter.transport.convex import ConvexPotential
from jkofilter.transport.flow import JKOFlow
from jkofilter.transport.icnn import ICNN
from jkofilter.transport.ridge import RidgeSpline

FORMAT = "jkofilter flow 1"
_KINDS: dict[str, type[RidgeSpline] | type[ICNN]] = {"RidgeSpline": RidgeSpline, "ICNN": ICNN}


def save_flow(flow: JKOFlow, path: str | os.PathLike[str]) -> None:
    """Write a flow; a prior that is not Gaussian or a mixture of Gaussians is left out and asked for when loading."""
    content = {
        "format": FORMAT,
        "prior": _encoded(flow.prior),
        "times": list(flow.times),
        "maps": [{"kind": type(psi).__name__, "parameters": dict(psi.parameters())} for psi in flow.maps],
        "infos": [asdict(info) for info in flow.infos],
        "base": flow.base.x,
    }
    torch.save(content, path)


def load_flow(path: str | os.PathLike[str], prior: Distribution | None = None) -> JKOFlow:
    """The flow that ``save_flow`` wrote.

    Args:
        path: the file.
        prior: needed where the file holds none; used instead of the file's where given.

    Raises:
        InputError: not such a file, or the prior is missing.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{os.fspath(path)!r} does not exist.") from error
    except Exception as error:
        # torch raises whatever the bytes happen to trip over.
        raise InputError(f"{os.fspath(path)!r} is not a flow written by save_flow.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{os.fspath(path)!r} is not a flow written by save_flow.")
    law = prior if prior is not None else _decoded(content["prior"])
    if law is None:
        raise InputError("prior must be given: the file holds none, because its kind cannot be stored as tensors.")
    maps: list[ConvexPotential] = [
        _KINDS[entry["kind"]].from_parameters(entry["parameters"]) for entry in content["maps"]
    ]
    infos = tuple(StepInfo(**entry) for entry in content["infos"])
    return JKOFlow(law, tuple(content["times"]), tuple(maps), infos, prior_pool(law, content["base"]))


def _encoded(prior: Distribution) -> dict[str, Any] | None:
    if isinstance(prior, MultivariateNormal):
        return {"kind": "normal", "mean": prior.loc, "factor": prior.scale_tril}
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return {"kind": "normal", "mean": prior.mean, "factor": torch.diag(prior.stddev)}
    if isinstance(prior, MixtureSameFamily) and isinstance(prior.component_distribution, MultivariateNormal):
        components = prior.component_distribution
        logits = prior.mixture_distribution.logits
        return {"kind": "mixture", "mean": components.loc, "factor": components.scale_tril, "logits": logits}
    return None


def _decoded(entry: dict[str, Any] | None) -> Distribution | None:
    if entry is None:
        return None
    normal = MultivariateNormal(entry["mean"], scale_tril=entry["factor"])
    return normal if entry["kind"] == "normal" else MixtureSameFamily(Categorical(logits=entry["logits"]), normal)
