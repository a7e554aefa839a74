"""Beliefs: filtering laws that can be evaluated, sampled and summarised."""

from jkofilter.beliefs.base import Belief
from jkofilter.beliefs.benes import BenesBelief
from jkofilter.beliefs.gaussian import GaussianBelief
from jkofilter.beliefs.grid import GridBelief
from jkofilter.beliefs.grid_2d import GridBelief2D
from jkofilter.beliefs.nodal import NodalBelief
from jkofilter.beliefs.particle import ParticleBelief
from jkofilter.beliefs.path import PathBelief
from jkofilter.beliefs.quantile import QuantileBelief

BELIEF_TYPES: dict[str, type[Belief]] = {
    kind.__name__: kind
    for kind in (
        BenesBelief,
        GaussianBelief,
        GridBelief,
        GridBelief2D,
        NodalBelief,
        ParticleBelief,
        PathBelief,
        QuantileBelief,
    )
}

__all__ = [
    "BELIEF_TYPES",
    "Belief",
    "BenesBelief",
    "GaussianBelief",
    "GridBelief",
    "GridBelief2D",
    "NodalBelief",
    "ParticleBelief",
    "PathBelief",
    "QuantileBelief",
]
