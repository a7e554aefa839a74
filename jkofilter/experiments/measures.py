"""What is measured of a run, and what the figures are called."""

from __future__ import annotations

from collections.abc import Mapping

MEASURES: Mapping[str, str] = {
    "kl_reference": "KL(reference, filter), nats",
    "kl_filter": "KL(filter, reference), nats",
    "log_density_error": "rms error of the log density, nats",
    "mean_error": "error of the mean, posterior sd",
    "sd_ratio": "sd / sd of the reference",
    "least_ess": "fewest effective particles at a reading",
    "log_evidence": "log evidence, nats",
    "log_evidence_error": "|log evidence error|, nats",
    "kl_exact": "KL(exact, method), nats",
    "kl_method": "KL(method, exact), nats",
    "symmetric_kl": "symmetric KL, nats",
    "kl_stationary": "KL(method, stationary law), nats",
    "ess": "effective share of draws weighted to the stationary law",
    "seconds": "wall time of a run, s",
    "processor_seconds": "processor time of a run, s",
}
"""Names of the figures of a run, and what they are in words, with the unit."""

HEADINGS: Mapping[str, str] = {
    "kl_reference": "KL(ref, filter)",
    "kl_filter": "KL(filter, ref)",
    "log_density_error": "rms log density error",
    "mean_error": "mean error / sd",
    "sd_ratio": "sd / sd of ref",
    "least_ess": "least ESS",
    "log_evidence_error": "|log evidence error|",
    "kl_exact": "KL(exact, method)",
    "kl_method": "KL(method, exact)",
    "symmetric_kl": "symmetric KL",
    "kl_stationary": "KL(method, stationary)",
    "ess": "stationary ESS",
    "seconds": "seconds",
    "processor_seconds": "CPU seconds",
}
"""The same in fewer words, for tables on the screen."""

ERRORS = ("kl_reference", "kl_filter", "log_density_error", "mean_error", "log_evidence_error")
"""Of a filter's run, those of which less is better."""
FLOW_ERRORS = ("kl_exact", "kl_method", "symmetric_kl", "kl_stationary")
"""The same of a flow's run."""
FILTER_MEASURES = (*ERRORS, "sd_ratio", "least_ess")
"""Of a filter's run, those worth a column."""
FLOW_MEASURES = (*FLOW_ERRORS, "ess")
"""Of a flow's run, those worth a column."""
TIMES = ("seconds", "processor_seconds")
"""Of every run: of the filter or method alone, without what judges it. Processor time is that of all its threads."""
