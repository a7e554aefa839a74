"""How readings are taken in."""

from __future__ import annotations

from dataclasses import dataclass, field

from jkofilter.assimilation.moves import MOVES, Move
from jkofilter.errors import InputError
from jkofilter.models.checks import require_count
from jkofilter.numerics.mcmc import AuxiliaryFunction, independence
from jkofilter.transport.steps.ridge_engine import RidgeEngine


@dataclass(frozen=True)
class UpdateSettings:
    """How readings are taken in.

    Attributes:
        moves: kernels, applied in this order at every temperature; "global" once, after the last.
        sweeps: how often the local ones are applied at each temperature, at least; more while particles drift.
        ess: share of the particles that a temperature step keeps effective.
        auxiliary: phi(u, c) of the "auxiliary" kernel, the centres (n, d) of its proposals N(phi, I), for points u
            (n, d) of the base space, where the belief is standard normal, and c (n,), minus twice the log of the
            tempered likelihood there (and of what the map that makes a prior of the user's normal leaves over).
        agreement: of the fitted law with the exact posterior that is good enough: effective share of its draws weighed
            against the posterior and of the particles weighed against it, the lesser. StepInfo.note says if it is less.
        layers: most layers of a refitted law.
        engine: fits the layers.

    Raises:
        InputError: a setting cannot be used.
    """

    moves: tuple[Move, ...] = ("elliptical-slice", "global")
    sweeps: int = 2
    ess: float = 0.5
    auxiliary: AuxiliaryFunction = independence
    agreement: float = 0.9
    layers: int = 3
    engine: RidgeEngine = field(default_factory=lambda: RidgeEngine(cells=16))

    def __post_init__(self) -> None:
        if not isinstance(self.moves, tuple) or not self.moves or set(self.moves) - set(MOVES):
            raise InputError(f"moves must be a tuple of some of {', '.join(MOVES)}, got {self.moves!r}.")
        require_count("sweeps", self.sweeps, 1)
        if not 0 < self.ess < 1:
            raise InputError(f"ess must be a share between 0 and 1, got {self.ess!r}.")
        if not callable(self.auxiliary):
            raise InputError("auxiliary must be a function phi(z, c).")
        if not 0 < self.agreement <= 1:
            raise InputError(f"agreement must be a share above 0 and up to 1, got {self.agreement!r}.")
        require_count("layers", self.layers, 0)
        if not isinstance(self.engine, RidgeEngine):
            raise InputError(f"engine must be a RidgeEngine, got {type(self.engine).__name__}.")
