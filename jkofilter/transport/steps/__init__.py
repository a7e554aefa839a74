"""One JKO step: the problem, and an engine for every family of maps."""
