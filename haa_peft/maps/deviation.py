"""How far predicted metrics may be off: the levels' own standard deviation, in the unit of what is left out.

The Gaussian process of the levels (:mod:`haa_peft.levels.process`) says where it knows little: far from measurements,
behind obstacles, in directions that were not measured. It says so in dB of spans and octaves. How much of a metric
goes with a dB is learned by leaving out each measurement: the root mean square of its errors over the process'
standard deviations, made wider for being learned from few. ``recipes/calibrate_maps.py`` says how often errors lie
inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from haa_peft.inference.predictor import RoomPredictor
from haa_peft.levels.room import RoomLevels
from haa_peft.maps.metrics import metric_values

FEWEST = 4
"""Measurements with a value that a deviation is learned from."""
AT_ONCE = 32
"""Positions whose covariances are computed together."""


def levels_deviation(levels: RoomLevels | None, positions: np.ndarray) -> np.ndarray:
    """Root mean square over spans and octaves of the levels' standard deviation, chance included, (N,) dB.

    Parameters
    ----------
    levels : of a room; without, nothing says where less is known, and it is 1 everywhere.
    positions : (N, 3) m from the receiver.
    """
    if levels is None:
        return np.ones(len(positions))
    chance = levels.process.parameters.value("chance").numpy()
    found = np.empty(len(positions))
    for start in range(0, len(positions), AT_ONCE):
        some = positions[start : start + AT_ONCE]
        known = levels.process.deviation(levels.places(some))
        found[start : start + AT_ONCE] = np.sqrt((known**2 + chance[:, None] ** 2).mean(axis=(1, 2)))
    return found


class Deviations:
    """Standard deviations of a room's predicted metrics.

    Parameters
    ----------
    predictor : with the adapter loaded; it predicts the measurements that are left out.
    k, seed, receiver : as :meth:`~haa_peft.inference.predictor.RoomPredictor.predict` takes them.
    """

    def __init__(
        self, predictor: RoomPredictor, *, k: int | None = None, seed: int = 0, receiver: ArrayLike | None = None
    ) -> None:
        self._receiver, positions, rirs, self._levels = predictor.measured(receiver)
        self._rows, self._rirs = predictor.predict_left_out(k=k, seed=seed, receiver=receiver)
        self._measured, self._rate = rirs[self._rows], predictor.sample_rate
        places = positions - self._receiver
        apart = [np.arange(len(places)) != row for row in self._rows]
        seen = [None if self._levels is None else self._levels.seeing(others) for others in apart]
        self._left_out = [float(levels_deviation(one, places[[row]])[0])
                          for row, one in zip(self._rows, seen, strict=True)]  # fmt: skip

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Of levels at positions (N, 3) m in room coordinates, (N,) dB."""
        return levels_deviation(self._levels, positions - self._receiver)

    def per_decibel(self, metric: str, band: str) -> float:
        """How far a metric is off where levels are by one dB, in its unit; NaN where too few measurements have it."""
        predicted, measured = (metric_values(rirs, self._rate, metric, band) for rirs in (self._rirs, self._measured))
        errors = (predicted - measured) / self._left_out
        known = errors[np.isfinite(errors)]
        if len(known) < FEWEST:
            return np.nan
        # a few errors tell their own size badly: Student's distribution has its 68 % farther out than a normal one
        return float(np.sqrt((known**2).mean()) * stdtrit(len(known), ndtr(1)))
