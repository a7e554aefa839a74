"""Potentials, the diffusion, sensors, readings, and the model that joins them."""

from jkofilter.models.observations import (
    LinearGaussian,
    NonlinearGaussian,
    ObservationModel,
    Poisson,
    StochasticVolatility,
    StudentT,
)
from jkofilter.models.potentials import (
    DoubleWell,
    GaussianMixture,
    LogCosh,
    Potential,
    Quadratic,
    Rotated,
    SineQuadratic,
)
from jkofilter.models.range_bearing import RangeBearing
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.series import ObservationSeries
from jkofilter.models.simulate import simulate
from jkofilter.models.state_space import StateSpaceModel

__all__ = [
    "DoubleWell",
    "GaussianMixture",
    "LangevinSDE",
    "LinearGaussian",
    "LogCosh",
    "NonlinearGaussian",
    "ObservationModel",
    "ObservationSeries",
    "Poisson",
    "Potential",
    "Quadratic",
    "RangeBearing",
    "Rotated",
    "SineQuadratic",
    "StateSpaceModel",
    "StochasticVolatility",
    "StudentT",
    "simulate",
]
