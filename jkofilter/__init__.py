"""jkofilter: track hidden diffusions with filters that carry a density."""

from jkofilter import filters, models
from jkofilter._version import __version__
from jkofilter.assimilation.settings import UpdateSettings
from jkofilter.baselines.dual_jko import DualSettings, solve_dual_jko
from jkofilter.baselines.particle_flow import ParticleFlow, solve_particles
from jkofilter.baselines.proximal import ProximalSettings, solve_proximal
from jkofilter.baselines.stepped import WeightedParticleFlow
from jkofilter.baselines.svgd import SVGDResult, svgd
from jkofilter.beliefs import (
    Belief,
    BenesBelief,
    GaussianBelief,
    GridBelief,
    GridBelief2D,
    NodalBelief,
    ParticleBelief,
    QuantileBelief,
)
from jkofilter.beliefs.product import ProductBelief, ProductLaw
from jkofilter.errors import FilterError, InputError
from jkofilter.experiments.calibration import Calibration, calibrate
from jkofilter.experiments.filter_study import FilterStudy
from jkofilter.experiments.flow_study import Carried, FlowCase, FlowStudy
from jkofilter.experiments.methods import dual_jko, jko, particles, proximal
from jkofilter.experiments.published import PublishedFigure
from jkofilter.experiments.scenario import Scenario
from jkofilter.filters import *
from jkofilter.filters.driver import Tracker, run_filter
from jkofilter.filters.result import FilterResult
from jkofilter.learning.evidence import log_evidence_and_gradient
from jkofilter.learning.fit import fit
from jkofilter.learning.fit_result import FitResult
from jkofilter.models import *
from jkofilter.numerics import metrics
from jkofilter.smoothing.driver import run_smoother
from jkofilter.smoothing.result import SmootherResult
from jkofilter.transport.flow import JKOFlow
from jkofilter.transport.laws.belief import TransportBelief
from jkofilter.transport.maps.icnn import ICNN
from jkofilter.transport.solve import solve_jko
from jkofilter.transport.steps.icnn_engine import ICNNEngine
from jkofilter.transport.steps.ridge_engine import RidgeEngine
from jkofilter.transport.steps.soft_maximum_engine import SoftMaximumEngine

CloudFlow = WeightedParticleFlow
"""The old name of ``WeightedParticleFlow``."""

# Rooms that grow name what they offer themselves.
__all__ = [
    *filters.__all__,
    *models.__all__,
    "Belief",
    "BenesBelief",
    "Calibration",
    "Carried",
    "CloudFlow",
    "DualSettings",
    "FilterError",
    "FilterResult",
    "FilterStudy",
    "FitResult",
    "FlowCase",
    "FlowStudy",
    "GaussianBelief",
    "GridBelief",
    "GridBelief2D",
    "InputError",
    "ICNN",
    "ICNNEngine",
    "JKOFlow",
    "NodalBelief",
    "ParticleBelief",
    "ParticleFlow",
    "QuantileBelief",
    "ProductBelief",
    "ProductLaw",
    "PublishedFigure",
    "ProximalSettings",
    "RidgeEngine",
    "SVGDResult",
    "SmootherResult",
    "Scenario",
    "SoftMaximumEngine",
    "Tracker",
    "TransportBelief",
    "UpdateSettings",
    "WeightedParticleFlow",
    "__version__",
    "calibrate",
    "dual_jko",
    "fit",
    "jko",
    "log_evidence_and_gradient",
    "metrics",
    "particles",
    "proximal",
    "run_filter",
    "run_smoother",
    "solve_dual_jko",
    "solve_jko",
    "solve_particles",
    "solve_proximal",
    "svgd",
]
