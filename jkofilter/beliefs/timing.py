"""Beliefs at another time: the clock of a model starts where the user says."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import TypeVar

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.product import ProductBelief
from jkofilter.errors import InputError

B = TypeVar("B", bound=Belief)


def at_time(belief: B, time: float) -> B:
    """The same law as the belief of another time.

    Raises:
        InputError: a belief of one's own that is no dataclass with a field ``time``.
    """
    if belief.time == time:
        return belief
    if isinstance(belief, ProductBelief):
        return replace(belief, marginals=tuple(at_time(law, time) for law in belief.marginals))
    if not is_dataclass(belief) or isinstance(belief, type):
        raise InputError(
            f"start must be zero for beliefs that cannot be put to another time; make {type(belief).__name__} a "
            "dataclass with a field time."
        )
    return replace(belief, time=time)
