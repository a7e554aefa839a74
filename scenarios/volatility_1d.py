"""Hidden log variance behind the daily returns of the S&P 500, 1999 to 2018: 5,030 readings of real data.

The state is the log variance of the day's return (in percent squared), an Ornstein-Uhlenbeck process; the reading is
the return less its mean, y ~ N(0, exp(x)). Time is in trading days. Source and provenance: scenarios/data/README.md.
Look for the crisis of 2008 (around day 2,450), when the variance was thirty times that of 2017 (days 4,530 to 4,780).

Mean -0.195, rate 0.0165 a day and stationary deviation 1.017 maximise the evidence of these returns; found by
Nelder-Mead on a 140-state grid with the exact transition kernel of the process.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import jkofilter as jf

MEAN, RATE, DEVIATION = -0.195, 0.0165, 1.017


def returns() -> jf.ObservationSeries:
    """Daily log returns in percent, less their mean, at days 1, 2, ..."""
    closes = pd.read_csv(Path(__file__).parent / "data" / "sp500_daily_close.csv")["close"].to_numpy()
    percent = 100.0 * np.diff(np.log(closes))
    return jf.ObservationSeries(np.arange(1, percent.size + 1), percent - percent.mean())


MODEL = jf.StateSpaceModel(
    prior=torch.distributions.MultivariateNormal(
        torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[DEVIATION**2]], dtype=torch.float64)
    ),
    sde=jf.LangevinSDE(jf.Quadratic([MEAN], [[RATE]]), beta=1.0 / (RATE * DEVIATION**2)),
    observation=jf.StochasticVolatility(),
)

SCENARIO = jf.Scenario(
    name="volatility_1d",
    description="log variance of the S&P 500's daily returns",
    model=MODEL,
    series=returns(),
    filters={
        "jko": lambda model: jf.JKOFilter(model, step=1.0),
        "particle": lambda model: jf.ParticleFilter(model, particles=10_000, substep=0.25, smoothing=0.5),
        "spectral": jf.SpectralFilter,
        "grid": lambda model: jf.GridFilter(model, bounds=(MEAN - 9.0, MEAN + 9.0), cells=1500, step=0.25),
    },
    reference="grid",
    time_label="time, trading days since 1999-01-04",
    state_label="log variance, log percent squared",
    reading_label="return, percent",
    readings_on_state_axis=False,
)

if __name__ == "__main__":
    SCENARIO.main()
