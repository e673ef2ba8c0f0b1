"""Floor plans: where a room's surfaces cross a height, and the points between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haa_peft.geometry.panorama import DepthMap, Geometry, directions

UPRIGHT = 0.35
"""Sine of the angle that a wall may lean."""


@dataclass(frozen=True)
class Plan:
    """A room seen from above.

    Attributes
    ----------
    walls : (n, 2) m each, lines where surfaces cross the height.
    elsewhere : the same of upright surfaces that lie above or below it, such as panels.
    """

    walls: list[np.ndarray]
    elsewhere: list[np.ndarray]


def floor_plan(geometry: Geometry, receiver: np.ndarray, height: float) -> Plan:
    """The plan of a room at a height in m, around its receiver (3,) m."""
    if isinstance(geometry, DepthMap):
        if not np.isfinite(geometry.bounds()).all():  # it is not the room's own
            return Plan([], [])
        return Plan([_outline(geometry, receiver, height)], [])
    walls, elsewhere = [], []
    fourth = geometry.points[:, 1] + geometry.points[:, 2] - geometry.points[:, 0]
    upright = np.abs(geometry.normals()[:, 2]) < UPRIGHT
    for points, last, triangle, stands in zip(geometry.points, fourth, geometry.is_triangle, upright, strict=True):
        corners = points if triangle else np.stack([points[0], points[1], last, points[2]])
        line = _crossing(corners, height)
        if line is not None:
            walls.append(line)
        elif stands:
            elsewhere.append(_farthest_apart(corners[:, :2]))
    return Plan(walls, elsewhere)


def _crossing(corners: np.ndarray, height: float) -> np.ndarray | None:
    """The line (2, 2) m in which a convex polygon (C, 3) m crosses a height; None where it does not."""
    above = corners[:, 2] >= height
    ends = []
    for i in range(len(corners)):
        one, other = corners[i - 1], corners[i]
        if above[i - 1] != above[i]:
            ends.append(one + (height - one[2]) / (other[2] - one[2]) * (other - one))
    return np.array(ends)[:, :2] if len(ends) == 2 else None


def _farthest_apart(points: np.ndarray) -> np.ndarray:
    """Those two (2, 2) of points (C, 2) that lie farthest apart."""
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    return points[list(np.unravel_index(apart.argmax(), apart.shape))]


def _outline(geometry: DepthMap, receiver: np.ndarray, height: float) -> np.ndarray:
    """Closed line (columns + 1, 2) m through what is seen nearest to a height in each column of a depth map."""
    points = receiver + geometry.depth[..., None] * directions(*geometry.depth.shape)
    seen = np.isfinite(points).all(axis=-1)
    row = np.where(seen, np.abs(points[..., 2] - height), np.inf).argmin(axis=0)
    line = points[row, np.arange(points.shape[1]), :2]
    line = line[np.isfinite(line).all(axis=-1)]
    return np.concatenate([line, line[:1]])
