"""jkofilter: track hidden diffusions with filters that carry a density."""

from jkofilter.beliefs import (
    Belief,
    BenesBelief,
    GaussianBelief,
    GridBelief,
    GridBelief2D,
    ParticleBelief,
    QuantileBelief,
)
from jkofilter.beliefs.product import ProductBelief, ProductLaw
from jkofilter.calibration import Calibration, calibrate
from jkofilter.errors import FilterError, InputError
from jkofilter.filters import (
    BenesFilter,
    DualJKOFilter,
    EnsembleKalmanFilter,
    Filter,
    GridFilter,
    JKOFilter,
    KalmanFilter,
    ParticleFilter,
    ProductFilter,
    ProximalFilter,
    StepInfo,
    UnscentedKalmanFilter,
    benes_prior,
)
from jkofilter.flows.dual_jko import DualSettings, solve_dual_jko
from jkofilter.flows.particle_flow import ParticleFlow, solve_particles
from jkofilter.flows.proximal import ProximalSettings, solve_proximal
from jkofilter.flows.stepped import CloudFlow
from jkofilter.flows.svgd import SVGDResult, svgd
from jkofilter.measures import PublishedFigure
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
    RangeBearing,
    Rotated,
    SineQuadratic,
    StateSpaceModel,
    StochasticVolatility,
    StudentT,
    simulate,
)
from jkofilter.numerics import metrics
from jkofilter.run import FilterResult, Tracker, run_filter
from jkofilter.scenario import FilterStudy, Scenario
from jkofilter.study import Carried, FlowCase, FlowStudy, dual_jko, jko, particles, proximal
from jkofilter.transport.assimilation import UpdateSettings
from jkofilter.transport.belief import TransportBelief
from jkofilter.transport.engines import RidgeEngine
from jkofilter.transport.flow import JKOFlow
from jkofilter.transport.icnn import ICNN
from jkofilter.transport.icnn_engine import ICNNEngine
from jkofilter.transport.soft_maximum_engine import SoftMaximumEngine
from jkofilter.transport.solve import solve_jko

__version__ = "0.1.0"

__all__ = [
    "Belief",
    "BenesBelief",
    "BenesFilter",
    "Calibration",
    "Carried",
    "CloudFlow",
    "DoubleWell",
    "DualJKOFilter",
    "DualSettings",
    "EnsembleKalmanFilter",
    "Filter",
    "FilterError",
    "FilterResult",
    "FilterStudy",
    "FlowCase",
    "FlowStudy",
    "GaussianBelief",
    "GaussianMixture",
    "GridBelief",
    "GridBelief2D",
    "GridFilter",
    "InputError",
    "ICNN",
    "ICNNEngine",
    "JKOFilter",
    "JKOFlow",
    "KalmanFilter",
    "LangevinSDE",
    "LinearGaussian",
    "LogCosh",
    "NonlinearGaussian",
    "ObservationModel",
    "ObservationSeries",
    "ParticleBelief",
    "ParticleFilter",
    "ParticleFlow",
    "Poisson",
    "Potential",
    "QuantileBelief",
    "ProductBelief",
    "ProductFilter",
    "ProductLaw",
    "PublishedFigure",
    "ProximalFilter",
    "ProximalSettings",
    "Quadratic",
    "RangeBearing",
    "RidgeEngine",
    "Rotated",
    "SVGDResult",
    "Scenario",
    "SineQuadratic",
    "SoftMaximumEngine",
    "StateSpaceModel",
    "StepInfo",
    "StochasticVolatility",
    "StudentT",
    "Tracker",
    "TransportBelief",
    "UnscentedKalmanFilter",
    "UpdateSettings",
    "benes_prior",
    "calibrate",
    "dual_jko",
    "jko",
    "metrics",
    "particles",
    "proximal",
    "run_filter",
    "simulate",
    "solve_dual_jko",
    "solve_jko",
    "solve_particles",
    "solve_proximal",
    "svgd",
]
