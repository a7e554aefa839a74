"""Named parameters as one unconstrained vector, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to
from torch.distributions.constraints import Constraint

from jkofilter.errors import InputError
from jkofilter.models.checks import as_tensor

_STUCK = 1e-5


@dataclass(frozen=True, eq=False)
class Family:
    """The parameters of a family of models: names, constraints, priors, and where to start.

    Attributes:
        start: parameters by name, inside their constraints.
        constraints: by name; one that is not named is real.
        priors: laws of parameters by name; one that is not named has a flat prior.
    """

    start: dict[str, Tensor]
    constraints: dict[str, Constraint]
    priors: dict[str, Distribution]

    @property
    def names(self) -> list[str]:
        """One for each number: the parameter's name, with the place in it where it holds several."""
        found = []
        for name, value in self.start.items():
            places = [""] if value.ndim == 0 else [str(list(index)) for index in _places(value)]
            found += [name + place for place in places]
        return found

    @property
    def free(self) -> Tensor:
        """Unconstrained coordinates of the start, (k,)."""
        parts = [self._transform(name).inv(value).reshape(-1) for name, value in self.start.items()]
        return torch.cat(parts)

    def parameters(self, free: Tensor) -> dict[str, Tensor]:
        """Parameters by name from unconstrained coordinates (k,), differentiable."""
        found, done = {}, 0
        for name, value in self.start.items():
            transform = self._transform(name)
            shape = transform.inverse_shape(value.shape)
            size = int(torch.Size(shape).numel())
            found[name] = transform(free[done : done + size].reshape(shape))
            done += size
        return found

    def log_prior(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Sum of the log densities of the priors; no Jacobian, so that a mode is that of the parameters themselves."""
        total = torch.zeros((), dtype=torch.float64)
        for name, law in self.priors.items():
            total = total + law.log_prob(parameters[name]).sum()
        return total

    def log_volume(self, free: Tensor) -> Tensor:
        """log |d parameters / d free|, which makes a density of the unconstrained coordinates."""
        total, done = torch.zeros((), dtype=torch.float64), 0
        for name, value in self.start.items():
            transform = self._transform(name)
            shape = transform.inverse_shape(value.shape)
            size = int(torch.Size(shape).numel())
            part = free[done : done + size].reshape(shape)
            total = total + transform.log_abs_det_jacobian(part, transform(part)).sum()
            done += size
        return total

    def flat(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The numbers of all parameters one after the other, as ``names`` has them."""
        return torch.cat([parameters[name].reshape(-1) for name in self.start])

    def _transform(self, name: str) -> Any:
        return transform_to(self.constraints.get(name, constraints.real))


def family(start: Any, constraints_: Any, priors: Any) -> Family:
    """What a user says of parameters, checked.

    Raises:
        InputError: a start is missing, no number or outside its constraint, or a name is unknown.
    """
    if not isinstance(start, Mapping) or not start:
        raise InputError("start must be a dict of at least one parameter by name, such as {'height': 1.0}.")
    values = {}
    for name, value in start.items():
        tensor = as_tensor(value, f"start[{name!r}]").detach().double()
        values[str(name)] = tensor.clone()
    given, laws = dict(constraints_ or {}), dict(priors or {})
    for kind, names in (("constraints", given), ("priors", laws)):
        unknown = next((name for name in names if name not in values), None)
        if unknown is not None:
            raise InputError(f"{kind} has {unknown!r}, which start has not; its parameters are {', '.join(values)}.")
    for name, constraint in given.items():
        if not isinstance(constraint, Constraint):
            raise InputError(
                f"constraints[{name!r}] must be one of torch.distributions.constraints, such as constraints.positive."
            )
        _require_inside(name, values[name], constraint)
    for name, law in laws.items():
        if not isinstance(law, Distribution):
            raise InputError(f"priors[{name!r}] must be a torch.distributions.Distribution.")
        if name not in given and law.support is not constraints.real:
            # A parameter lives where its prior does.
            given[name] = law.support
            _require_inside(name, values[name], given[name])
        try:
            law.log_prob(values[name])
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"priors[{name!r}] cannot be asked for start[{name!r}], of shape {tuple(values[name].shape)}; give "
                "a "
                "of one number, or of that shape."
            ) from error
    return Family(values, given, laws)


def _require_inside(name: str, value: Tensor, constraint: Constraint) -> None:
    """Raise InputError unless a start lies inside its constraint, and not on its edge."""
    if not bool(torch.as_tensor(constraint.check(value)).all()):
        raise InputError(f"start[{name!r}] is {value.tolist()}, outside its constraint {constraint}.")
    transform = transform_to(constraint)
    free = transform.inv(value)
    moved = (transform(free + 0.5) - transform(free - 0.5)).abs()
    # On an edge the unconstrained coordinate is so far out that it moves nothing.
    if not torch.isfinite(free).all() or bool((moved.max() <= _STUCK * value.abs().max().clamp(min=1e-12)).item()):
        raise InputError(
            f"start[{name!r}] is {value.tolist()}, on the edge of its constraint {constraint}; move it inside."
        )


def _places(value: Tensor) -> list[tuple[int, ...]]:
    grid = torch.cartesian_prod(*(torch.arange(size) for size in value.shape))
    return [tuple(row.reshape(-1).tolist()) for row in grid]
