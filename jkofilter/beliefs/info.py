"""What a step of a filter or flow reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepInfo:
    """What one predict or update did.

    Attributes:
        status: "ok", "skipped" (nothing to do: zero duration or a missing reading), or what went wrong.
        log_evidence: increment of the log evidence, nats; zero for predict.
        seconds: wall clock.
        ess: effective sample size, where there are weights: of a filter's particles before resampling, of a JKO
            flow's pool against the stationary law.
        details: whatever else applies, by name (steps, halvings, newton_iterations, resampled, loss, residual, ...).
        note: what a user should know about a step that went well; usually empty.
        history: what was found at every stage of a step, by name (temperature, ess).
        surprise: how improbable the reading was for one real component of it: twice the smaller of P(Y <= y) and
            P(Y >= y) under the predictive law, at most 1 (the two-sided prior predictive p-value; Box 1980, J. R.
            Stat. Soc. A 143, 383-430). Small is alarming; zero is below the smallest double. None where not known.
    """

    status: str = "ok"
    log_evidence: float = 0.0
    seconds: float = 0.0
    ess: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    surprise: float | None = None
