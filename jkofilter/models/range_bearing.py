"""A station that sees how far and in which direction, in the plane."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from jkofilter._typing import Points, Reading, Readings, Scalars
from jkofilter.errors import InputError
from jkofilter.models.checks import as_number, as_tensor, positive_number
from jkofilter.models.observations import NonlinearGaussian, gaussian_log_likelihood

STRADDLING = 0.01
"""Share of points on either side of the cut from which on a filter that averages angles notes it."""


class RangeBearing(NonlinearGaussian):
    """y = (distance from a station, bearing) + noise, for states in the plane.

    A bearing is an angle: an error of it is taken the short way round, so that the likelihood has no step where atan2
    jumps by a full turn. Filters that subtract readings themselves (unscented, ensemble) ask for bearings within half a
    turn of the one read, and note when what they stand for lies on both sides of the cut opposite to it. The likelihood
    has a corner there too, where it is nil for bearings good to half a radian.

    Args:
        station: where it stands, (2,), in units of the state.
        range_deviation: standard deviation of the distance, same units.
        bearing_deviation: standard deviation of the bearing, radians, below one.
        boresight: direction of bearing zero, radians from the first axis towards the second.

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self, station: Tensor, range_deviation: float, bearing_deviation: float, boresight: float = 0.0
    ) -> None:
        self.station = as_tensor(station, "station").reshape(-1)
        if self.station.shape != (2,):
            raise InputError(f"station must be a point of the plane, (2,), got {self.station.numel()} numbers.")
        distance = positive_number(range_deviation, "range_deviation")
        angle = as_number(bearing_deviation, "bearing_deviation")
        if not 0 < angle < 1:
            raise InputError(f"bearing_deviation must be between 0 and 1 radian, got {bearing_deviation!r}.")
        self.boresight = as_number(boresight, "boresight")
        if not math.isfinite(self.boresight):
            raise InputError(f"boresight must be finite, got {boresight!r}.")
        variances = torch.tensor([distance**2, angle**2], dtype=torch.float64)
        super().__init__(self._seen, torch.diag(variances))

    def _seen(self, x: Points) -> Readings:
        if x.shape[-1] != 2:
            raise InputError(f"RangeBearing sees states in the plane, but the state dimension is {x.shape[-1]}.")
        east, north = (x - self.station.to(x)).unbind(-1)
        ahead = math.cos(self.boresight) * east + math.sin(self.boresight) * north
        left = math.cos(self.boresight) * north - math.sin(self.boresight) * east
        return torch.stack([torch.hypot(east, north), torch.atan2(left, ahead)], -1)

    def log_likelihood(self, y: Reading, x: Points) -> Scalars:
        """log N of the errors in distance and, the short way round, in bearing.

        Raises:
            InputError: ``y`` is not two components.
        """
        if y.shape != (2,):
            raise InputError(f"y must hold 2 components for this observation model, got {tuple(y.shape)}.")
        return gaussian_log_likelihood(y.to(x), self.predict_near(y.to(x), x), self.covariance)

    def predict_near(self, y: Reading, x: Points) -> Readings:
        """Distances, and bearings within half a turn of the one read, (n, 2); as they are where none was."""
        seen = self.predict(x)
        if torch.isnan(y[1]):
            return seen
        bearing = y[1].to(seen)
        return torch.stack([seen[:, 0], bearing - short_way(bearing - seen[:, 1])], -1)

    def note_near(self, y: Reading, foreseen: Readings) -> str:
        """That bearings foreseen lie on both sides of the cut, more than a quarter turn from the one read."""
        error = foreseen[:, 1] - y[1].to(foreseen)
        quarter = 0.5 * math.pi
        sides = [(error > quarter).double().mean().item(), (error < -quarter).double().mean().item()]
        if not min(sides) > STRADDLING:
            return ""
        return (
            "bearings foreseen straddle the cut half a turn from the reading, where one angle has two values: mean and "
            "covariance of readings mean little; ParticleFilter and JKOFilter need neither"
        )

    def sample(self, x: Points, generator: Generator) -> Readings:
        """Readings, bearings from -pi to pi."""
        y = super().sample(x, generator)
        return torch.stack([y[:, 0], short_way(y[:, 1])], -1)


def short_way(angle: Tensor) -> Tensor:
    """The same angle between -pi and pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
