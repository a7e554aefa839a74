"""Filters, one a file, behind one protocol."""

from jkofilter.beliefs.info import StepInfo
from jkofilter.filters.benes import BenesFilter, benes_prior
from jkofilter.filters.block import BlockParticleFilter
from jkofilter.filters.contract import Filter
from jkofilter.filters.dual_jko import DualJKOFilter
from jkofilter.filters.ensemble import EnsembleKalmanFilter
from jkofilter.filters.grid import GridFilter
from jkofilter.filters.guided import GuidedParticleFilter
from jkofilter.filters.jko import JKOFilter
from jkofilter.filters.kalman import KalmanFilter
from jkofilter.filters.particle import ParticleFilter
from jkofilter.filters.product import ProductFilter
from jkofilter.filters.proximal import ProximalFilter
from jkofilter.filters.spectral import SpectralFilter
from jkofilter.filters.tempered import TemperedParticleFilter
from jkofilter.filters.unscented import UnscentedKalmanFilter

__all__ = [
    "BenesFilter",
    "BlockParticleFilter",
    "DualJKOFilter",
    "EnsembleKalmanFilter",
    "Filter",
    "GridFilter",
    "GuidedParticleFilter",
    "JKOFilter",
    "KalmanFilter",
    "ParticleFilter",
    "ProductFilter",
    "ProximalFilter",
    "SpectralFilter",
    "StepInfo",
    "TemperedParticleFilter",
    "UnscentedKalmanFilter",
    "benes_prior",
]
