"""The errors of the toolkit: of what a user gives, and of what a filter's own numbers come to."""


class InputError(ValueError):
    """An argument cannot be used; the one-sentence message names it and says what would work."""


class FilterError(RuntimeError):
    """A filter step failed on valid input (no convergence, every likelihood zero); the belief before it is intact."""


class NumericalError(FilterError):
    """Numbers broke down in a routine that knows neither time nor reading; whoever takes the step adds both."""
