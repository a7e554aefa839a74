"""The flow of a prior under a Langevin diffusion, as a chain of Brenier maps."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from itertools import pairwise

from torch import Tensor
from torch.distributions import Distribution

from jkofilter._typing import Points
from jkofilter.beliefs.info import StepInfo
from jkofilter.errors import InputError
from jkofilter.files import DamagedError, Format, Table, fits
from jkofilter.numerics.time_grid import step_of
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.laws.prior_pool import prior_pool
from jkofilter.transport.laws.storage import decoded_map, decoded_prior, encoded_map, encoded_prior
from jkofilter.transport.maps.convex import ConvexPotential, Pool, pushed_through
from jkofilter.transport.maps.displacement import DisplacementInterpolation

FORMAT = Format(
    "jkofilter flow", 1, "a flow written by JKOFlow.save()", lambda found: found.get("format") == "jkofilter flow 1"
)


@dataclass(frozen=True, eq=False)
class JKOFlow:
    """The law at every time from zero to the end of the flow.

    Attributes:
        prior: the law at time zero.
        times: of every step, starting with zero, in the SDE's unit.
        maps: the potential of every step, one fewer than times.
        infos: what every step did. details: loss, residual (mean square optimality residual
            (T(x) - z)/h + grad V + score/beta, velocity squared), kl_rate (beta/4 of it: a bound on the nats of KL
            per unit of time that the fit may add), kl (the same over the step, nats; sums over steps bound that of a
            flow), iterations, halvings, extrapolated, step (its length). ess is the effective sample size of the pool
            against the stationary law exp(-beta V).
        base: the particles at time zero.
    """

    prior: Distribution
    times: tuple[float, ...]
    maps: tuple[ConvexPotential, ...]
    infos: tuple[StepInfo, ...]
    base: Pool

    @property
    def dim(self) -> int:
        """State dimension d."""
        return self.base.x.shape[1]

    @property
    def final(self) -> TransportBelief:
        """The law at the end."""
        return self.at(self.times[-1])

    def at(self, time: float) -> TransportBelief:
        """The law at ``time``; between steps along the displacement interpolation of the step around it.

        Raises:
            InputError: ``time`` is outside the flow.
        """
        done, since = step_of(self.times, time)
        maps = self.maps[:done]
        if since:
            share = since / (self.times[done + 1] - self.times[done])
            maps = (*maps, DisplacementInterpolation(self.maps[done], share))
        pool = pushed_through(maps, self.base)
        return TransportBelief(float(time), self.prior, maps, pool, self.base.x)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the flow as plain tensors; a prior that is not Gaussian or a mixture of Gaussians is left out.

        Raises:
            InputError: the folder of ``path`` is not there or cannot be written to, or a map is of a kind of the
                user's own.
        """
        document = {
            "prior": encoded_prior(self.prior),
            "times": list(self.times),
            "maps": [encoded_map(psi) for psi in self.maps],
            "infos": [asdict(info) for info in self.infos],
            "base": self.base.x,
        }
        FORMAT.save(path, document)

    @staticmethod
    def load(path: str | os.PathLike[str], prior: Distribution | None = None) -> JKOFlow:
        """The flow that ``save`` wrote.

        Args:
            path: the file.
            prior: needed where the file holds none; used instead of the file's where given.

        Raises:
            InputError: not such a file, or the prior is missing or of another dimension.
        """
        stored = FORMAT.load(path, _decoded)
        law = stored.prior if prior is None else prior
        if law is None:
            raise InputError("prior must be given: the file holds none, its kind cannot be stored as tensors.")
        dim = stored.base.shape[1]
        if not isinstance(law, Distribution) or tuple(law.batch_shape + law.event_shape) != (dim,):
            raise InputError(f"prior must be a torch.distributions.Distribution with event_shape ({dim},).")
        return JKOFlow(law, stored.times, stored.maps, stored.infos, prior_pool(law, stored.base))


@dataclass(frozen=True, eq=False)
class _Stored:
    """What a file holds: the fields of a flow, with the particles alone instead of the pool."""

    prior: Distribution | None
    times: tuple[float, ...]
    maps: tuple[ConvexPotential, ...]
    infos: tuple[StepInfo, ...]
    base: Points


def _decoded(document: Table) -> _Stored:
    """Raises DamagedError where something is missing or does not belong together."""
    maps = tuple(decoded_map(entry) for entry in document.tables("maps"))
    infos = tuple(entry.built(StepInfo) for entry in document.tables("infos"))
    times = tuple(document.of("times", list))
    if not fits(times, tuple[float, ...]) or any(not a < b for a, b in pairwise(times)):
        raise DamagedError("'times' are not increasing numbers")
    if not len(times) - 1 == len(maps) == len(infos):
        raise DamagedError("times, maps and infos do not belong together")
    prior = None if document["prior"] is None else decoded_prior(document.table("prior"))
    return _Stored(prior, times, maps, infos, document.of("base", Tensor))
