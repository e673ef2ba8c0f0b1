"""Where to measure next: the positions that lower the variance of the levels most, one after the other.

What a measurement would say is not needed for that: the variance of a Gaussian process depends on the places alone
(Krause et al., J. Machine Learning Research 9, 2008). Hyperparameters stay as they were fitted.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from haa_peft.checks import check_whole
from haa_peft.errors import InputError
from haa_peft.levels.room import RoomLevels
from haa_peft.rooms.splits import farthest_points

MOST = 250
"""Candidates, well spread, that are taken of more; covariances grow with their square."""


def suggest(levels: RoomLevels, candidates: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to measure at, and how far levels are then known.

    Parameters
    ----------
    levels : of the room.
    candidates : (N, 3) m from the receiver, where one can measure, and where levels shall be known.
    count : how many to choose.

    Returns
    -------
    Rows (count,) of the candidates in the order in which they are chosen, and the root mean square over candidates,
    spans and octaves of the standard deviation, chance included, before and after each: (count + 1,) dB.

    Raises
    ------
    InputError
        For more positions than there are candidates.
    """
    check_whole("count", count, 1)
    rows = farthest_points(candidates, MOST) if len(candidates) > MOST else np.arange(len(candidates))
    if count > len(rows):
        raise InputError(f"count is {count} but there are {len(rows)} places to choose from; give no more than these")
    process = levels.process
    covariance = process.covariance(levels.places(candidates[rows]))
    chance = (process.parameters.value("chance") ** 2)[:, None, None]
    chosen: list[int] = []
    known = [_rms(covariance, chance)]
    for _ in range(count):
        variance = covariance.diagonal(dim1=-2, dim2=-1) + chance  # of a measurement at each
        falls = ((covariance**2).sum(dim=-2) / variance).sum(dim=(0, 1))
        falls[chosen] = -1.0
        best = int(falls.argmax())
        column = covariance[..., best]
        covariance = covariance - column[..., :, None] * column[..., None, :] / variance[..., best, None, None]
        chosen.append(best)
        known.append(_rms(covariance, chance))
    return rows[chosen], np.array(known)


def farthest(measured: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
    """Rows (count,) of candidates (N, 3) m, each farthest from all measured (R, 3) m and from those chosen before.

    Raises
    ------
    InputError
        For more positions than there are candidates.
    """
    if not 1 <= count <= len(candidates):
        raise InputError(f"count is {count} but must be from 1 to {len(candidates)}, the places to choose from")
    apart = np.linalg.norm(candidates[:, None] - measured, axis=-1).min(axis=1)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
    return np.array(chosen)


def _rms(covariance: Tensor, chance: Tensor) -> float:
    """Of standard deviations with chance, dB."""
    return float((covariance.diagonal(dim1=-2, dim2=-1) + chance).mean().sqrt())
