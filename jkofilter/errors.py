"""The two errors of the toolkit."""


class InputError(ValueError):
    """An argument cannot be used; the one-sentence message names it and says what would work."""


class FilterError(RuntimeError):
    """A filter step failed on valid input (no convergence, every likelihood zero); the belief before it is intact."""
