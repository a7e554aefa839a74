"""Priors of the state: what shapes are understood."""

from __future__ import annotations

from torch import Size
from torch.distributions import Distribution, Independent

from jkofilter.errors import InputError


def as_vector_prior(prior: Distribution, dim: int, names: str = "a torch.distributions.Distribution") -> Distribution:
    """``prior`` with event_shape (dim,) and no batch: independent coordinates are joined, a scalar is one coordinate.

    Args:
        prior: a law of the state, or of each of its coordinates.
        dim: state dimension d.
        names: what else would do, for the message.

    Raises:
        InputError: no distribution, or one of another shape.
    """
    if not isinstance(prior, Distribution):
        raise InputError(f"prior must be {names} with event_shape ({dim},), got {type(prior).__name__}.")
    event, batch = tuple(prior.event_shape), tuple(prior.batch_shape)
    if event == () and batch == (dim,):
        return Independent(prior, 1)
    if event == () and batch == () and dim == 1:
        try:
            return Independent(prior.expand(Size([1])), 1)
        except NotImplementedError as error:
            raise InputError(
                f"prior must have event_shape (1,), got (), and {type(prior).__name__} cannot be expanded; give it "
                "parameters of shape (1,) in an Independent(..., 1)."
            ) from error
    if event != (dim,) or batch != ():
        raise InputError(
            f"prior must have event_shape ({dim},) and no batch to match the potential, got event_shape {event} and "
            f"batch_shape {batch}; use MultivariateNormal or Independent(..., 1)."
        )
    return prior
