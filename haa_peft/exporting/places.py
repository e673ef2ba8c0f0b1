"""Where to predict: a grid in a room, and points along a path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import OPEN_SHARE, Geometry, directions, is_hidden, open_share, render_depth
from haa_peft.geometry.surfaces import Surfaces

CLOSEST = 0.1
"""Metres between points of a grid and the receiver."""
FINEST = 1e-3
MOST = 100_000
"""Points of a grid or a path."""


def grid(
    geometry: Geometry, receivers: np.ndarray, spacing: float, heights: Sequence[float], known: np.ndarray
) -> np.ndarray:
    """Points (N, 3) m of a grid in a room, as far as they lie inside it, 10 cm or more from receivers.

    Parameters
    ----------
    geometry, receivers : the room, (V, 3) m.
    spacing : m between neighbours in x and y.
    heights : z of each layer, m.
    known : (R, 3) m, where references were measured; what they span is taken where a room's walls are not known.

    Raises
    ------
    InputError
        For a spacing that is too fine, or where no point is inside.
    """
    low, high = geometry.bounds()
    bounded = bool(np.isfinite([low, high]).all())
    if not bounded:
        low, high = known.min(axis=0), known.max(axis=0)
    _check_spacing("--grid", spacing, float(np.prod((high - low)[:2])) / max(spacing, FINEST) ** 2 * len(heights))
    axes = [_centred(low[axis], high[axis], spacing) for axis in range(2)]
    points = np.array([[x, y, z] for z in heights for y in axes[1] for x in axes[0]], dtype=float)
    inside = np.linalg.norm(points[:, None] - receivers, axis=-1).min(axis=1) >= CLOSEST
    if bounded:
        inside &= ((points >= low) & (points <= high)).all(axis=1)
        inside[inside] = _inside(geometry, receivers[0], points[inside])
    if not inside.any():
        raise InputError(
            f"no point of the grid lies in the room, which spans {low.round(3).tolist()} to {high.round(3).tolist()} "
            "m; give another --grid or --height"
        )
    return points[inside]


def along(points: np.ndarray, spacing: float) -> np.ndarray:
    """Points (N, 3) m on straight lines from each of points (P, 3) m to the next, ``spacing`` m apart.

    The last of ``points`` is among them, at less than ``spacing`` from the one before.

    Raises
    ------
    InputError
        For fewer than two points, or a spacing that is too fine.
    """
    if len(points) < 2:
        raise InputError(f"--step needs a path of at least 2 positions but there is {len(points)}")
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    _check_spacing("--step", spacing, lengths.sum() / max(spacing, FINEST))
    so_far = np.concatenate([[0], lengths.cumsum()])
    count = int(np.floor(so_far[-1] / spacing + 1e-9)) + 1
    at = np.append(np.arange(count) * spacing, so_far[-1])
    at = at[:-1] if so_far[-1] - at[-2] < FINEST else at
    return np.stack([np.interp(at, so_far, axis) for axis in points.T], axis=1)


def _check_spacing(flag: str, spacing: float, points: float) -> None:
    if not FINEST <= spacing <= 1000:
        raise InputError(f"{flag} is {spacing:g} but must be from {FINEST:g} to 1000 m")
    if points > MOST:
        raise InputError(f"{flag} {spacing:g} gives some {points:.0f} points but at most {MOST} are predicted at once")


def _centred(low: float, high: float, spacing: float) -> np.ndarray:
    """Points between two walls, as far from the one as from the other."""
    count = max(1, int((high - low) / spacing))
    return (low + high) / 2 + (np.arange(count) - (count - 1) / 2) * spacing


def _inside(geometry: Geometry, receiver: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) m surfaces enclose, or a depth map shows to be before a wall, (N,) bool."""
    if not isinstance(geometry, Surfaces):
        return ~is_hidden(geometry, receiver, points)
    rays = directions(16, 32)
    return np.array([open_share(render_depth(geometry, point, rays)) <= OPEN_SHARE for point in points], dtype=bool)
