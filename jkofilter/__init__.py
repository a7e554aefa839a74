"""jkofilter: track hidden diffusions with filters that carry a density."""

from jkofilter.beliefs import Belief, GaussianBelief, GridBelief, GridBelief2D, ParticleBelief, QuantileBelief
from jkofilter.errors import FilterError, InputError
from jkofilter.filters import (
    EnsembleKalmanFilter,
    Filter,
    GridFilter,
    JKOFilter,
    KalmanFilter,
    ParticleFilter,
    StepInfo,
    UnscentedKalmanFilter,
)
from jkofilter.models import (
    DoubleWell,
    GaussianMixture,
    LangevinSDE,
    LinearGaussian,
    LogCosh,
    NonlinearGaussian,
    ObservationModel,
    ObservationSeries,
    Poisson,
    Potential,
    Quadratic,
    Rotated,
    SineQuadratic,
    StateSpaceModel,
    StochasticVolatility,
    StudentT,
    simulate,
)
from jkofilter.numerics import metrics
from jkofilter.run import FilterResult, Tracker, run_filter
from jkofilter.scenario import Scenario

__version__ = "0.1.0"

__all__ = [
    "Belief",
    "DoubleWell",
    "EnsembleKalmanFilter",
    "Filter",
    "FilterError",
    "FilterResult",
    "GaussianBelief",
    "GaussianMixture",
    "GridBelief",
    "GridBelief2D",
    "GridFilter",
    "InputError",
    "JKOFilter",
    "KalmanFilter",
    "LangevinSDE",
    "LinearGaussian",
    "LogCosh",
    "NonlinearGaussian",
    "ObservationModel",
    "ObservationSeries",
    "ParticleBelief",
    "ParticleFilter",
    "Poisson",
    "Potential",
    "QuantileBelief",
    "Quadratic",
    "Rotated",
    "Scenario",
    "SineQuadratic",
    "StateSpaceModel",
    "StepInfo",
    "StochasticVolatility",
    "StudentT",
    "Tracker",
    "UnscentedKalmanFilter",
    "metrics",
    "run_filter",
    "simulate",
]
