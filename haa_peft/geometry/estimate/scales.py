"""What six views say about depth, each in a scale of its own, brought to metres by what is known in metres.

Robust least squares over a scale, and for inverse depth a shift, of every view: views agree where they overlap, the
floor lies as far below the receiver as it does, and no position that is heard straight lies behind a surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import least_squares

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.delays import places_of, straight
from haa_peft.geometry.estimate.views import AXES, look_up
from haa_peft.geometry.panorama import directions, solid_angles
from haa_peft.geometry.sources import Known

STEEP = np.radians(25.0)
"""Below and above the horizon, from which on floor and ceiling are sought."""
NEAREST, FARTHEST = 0.1, 50.0
"""Metres; estimates are cut there."""
GRID = (32, 64)
"""Directions that are fitted."""
ROBUST = 0.1
"""Relative error beyond which a residual counts less (Cauchy): furniture is no floor, and hides positions."""
TETHER = 0.1
"""Weight of equal scales and small shifts, which keeps the fit determined where positions and floor do not."""
LOST = 0.25
"""Share of the directions that may come out farther than ``FARTHEST``."""
VIEWS = len(AXES)


@dataclass(frozen=True)
class Heights:
    """Metres of the receiver above the floor, and of the room if known."""

    receiver: float
    room: float | None = None

    def distance(self, elevation: np.ndarray) -> np.ndarray:
        """To floor and ceiling (...,) in metres, at elevations (...,) in radians; NaN towards the walls."""
        with np.errstate(divide="ignore"):
            steep = 1 / np.where(np.abs(elevation) > STEEP, np.abs(np.sin(elevation)), np.nan)
        ceiling = np.nan if self.room is None else self.room - self.receiver
        return steep * np.where(elevation < 0, self.receiver, ceiling)


def fit_depth(images: np.ndarray, are_depths: bool, heights: Heights, known: Known) -> tuple[np.ndarray, float]:
    """Depth (256, 512) in metres from what a network says of six views.

    Parameters
    ----------
    images : (6, h, w), depth along the views' axes in any unit, or inverse depth with any scale and shift.
    are_depths : which of the two.
    heights, known : what fixes the scale.

    Returns
    -------
    The depth, and the median relative error of the floor in it.

    Raises
    ------
    InputError
        When the network's values are not finite, or make no room.
    """
    if not np.isfinite(images).all() or (are_depths and (images <= 0).any()) or not images.any():
        raise InputError(f"the depth model gives values from {images.min():g} to {images.max():g}; try another model")
    values = 1 / images if are_depths else images
    values = values / np.abs(values).mean()
    scale, shift = _fit(values, heights, known, with_shift=not are_depths)
    rays = directions()
    value, cosine, weight = look_up(values, rays)
    inverse = (weight * _radial(value, cosine, scale, shift)).sum(axis=0) / weight.sum(axis=0)
    lost = float(solid_angles()[inverse < 1 / FARTHEST].sum())
    if lost > LOST:
        raise InputError(
            f"the depth model makes {lost:.0%} of the directions farther than {FARTHEST:g} m, which is no room; check "
            '"output" (inverse or depth) and "height" in geometry, or try another model'
        )
    depth = 1 / inverse.clip(1 / FARTHEST, 1 / NEAREST)
    floor = Heights(heights.receiver).distance(np.arcsin(rays[..., 2]))
    return depth, float(np.nanmedian(np.abs(depth / floor - 1)))


def _radial(value: np.ndarray, cosine: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Inverse depth along rays (6, ...) in 1/m; along the axis of a view it is scale * value + shift."""
    shape = (-1,) + (1,) * (value.ndim - 1)
    return cosine * (scale.reshape(shape) * value + shift.reshape(shape))


def _fit(values: np.ndarray, heights: Heights, known: Known, with_shift: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale (6,) and shift (6,) of the views, in 1/m."""
    rays = directions(*GRID).reshape(-1, 3)
    value, cosine, weight = look_up(values, rays)
    is_seen, area = weight > 0, np.sqrt(solid_angles(*GRID).ravel() * len(rays))
    level = heights.distance(np.arcsin(rays[:, 2]))
    is_level = is_seen & np.isfinite(level)
    pairs = [(i, j, is_seen[i] & is_seen[j]) for i, j in combinations(range(VIEWS), 2)]
    distance = np.linalg.norm(places_of(known)[straight(known)], axis=1)
    there = look_up(values, places_of(known)[straight(known)] / distance[:, None])
    weakly = TETHER * np.sqrt(is_level.sum() / VIEWS) * heights.receiver

    def residuals(parameters: np.ndarray) -> np.ndarray:
        scale, shift = parameters[:VIEWS], parameters[VIEWS:] if with_shift else np.zeros(VIEWS)
        inverse = _radial(value, cosine, scale, shift)
        floor = (area * (inverse * level - 1))[is_level]
        apart = [(area * (inverse[i] - inverse[j]))[both] * 2 * heights.receiver for i, j, both in pairs]
        hidden = np.maximum(_radial(there[0], there[1], scale, shift) * distance - 1, 0)[there[2] > 0]
        return np.concatenate([floor, *apart, hidden, weakly * (scale - scale.mean()), weakly * shift])

    start = np.full(VIEWS, 0.5 / heights.receiver)
    if with_shift:
        start = np.concatenate([start, np.zeros(VIEWS)])
    lowest = np.where(np.arange(len(start)) < VIEWS, 0.0, -np.inf)
    found = least_squares(residuals, start, bounds=(lowest, np.inf), loss="cauchy", f_scale=ROBUST).x
    return found[:VIEWS], found[VIEWS:] if with_shift else np.zeros(VIEWS)
