"""Potentials, the diffusion, sensors, readings, and the model that joins them."""

from jkofilter.models import potentials
from jkofilter.models.line_diffusion import LineDiffusion
from jkofilter.models.observations import (
    LinearGaussian,
    NonlinearGaussian,
    ObservationModel,
    Poisson,
    StochasticVolatility,
    StudentT,
)
from jkofilter.models.potentials import *
from jkofilter.models.range_bearing import RangeBearing
from jkofilter.models.sde import LangevinSDE
from jkofilter.models.series import ObservationSeries
from jkofilter.models.simulate import simulate
from jkofilter.models.state_space import StateSpaceModel

__all__ = [
    *potentials.__all__,
    "LangevinSDE",
    "LineDiffusion",
    "LinearGaussian",
    "NonlinearGaussian",
    "ObservationModel",
    "ObservationSeries",
    "Poisson",
    "RangeBearing",
    "StateSpaceModel",
    "StochasticVolatility",
    "StudentT",
    "simulate",
]
