"""The engines by name."""

from __future__ import annotations

from jkofilter.errors import InputError
from jkofilter.transport.steps.engine import Engine
from jkofilter.transport.steps.icnn_engine import ICNNEngine
from jkofilter.transport.steps.ridge_engine import RidgeEngine
from jkofilter.transport.steps.soft_maximum_engine import SoftMaximumEngine


def engine_of(transport: str | Engine) -> Engine:
    """The engine of that name with default settings, or the engine itself."""
    if transport in ("auto", "ridge"):
        return RidgeEngine()
    if transport == "icnn":
        return ICNNEngine()
    if transport == "soft-maximum":
        return SoftMaximumEngine()
    if isinstance(transport, str):
        raise InputError(f"transport must be 'auto', 'ridge', 'icnn', 'soft-maximum' or an engine, got {transport!r}.")
    if isinstance(transport, type):
        raise InputError(f"transport must be an engine, not its class: give {transport.__name__}().")
    if not (hasattr(transport, "begin") and hasattr(transport, "solve")):
        raise InputError(f"transport must be the name of an engine or an engine, got {type(transport).__name__}.")
    return transport
