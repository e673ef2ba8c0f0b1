"""Plane surfaces that bound a room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.channels import MATERIALS, UNKNOWN, material_number

SHAPES = ("parallelogram", "triangle")
BESIDE, USUAL_HEIGHT, LOWEST_FLOOR = 0.5, 3.0, 0.1
"""Metres: walls beside the outermost position, the height of a room of which nothing is known, and least clearances.

Of margins from .25 to 1 m with heights from 2.5 to 3.3 m, these two are among the best in 300 simulated rooms: depth
is then off by a factor of 1.3 (mean of the logarithms), against 1.9 with the best constant from the same positions.
"""


@dataclass(frozen=True)
class Surfaces:
    """S flat surfaces: corner and its two neighbours, (S, 3 points, 3 coordinates) in metres.

    A parallelogram is completed from its corner (the first point); a triangle is the three points. ``materials`` (S,)
    are the numbers of their classes in ``MATERIALS``, or ``UNKNOWN``; None if no surface has one.
    """

    points: np.ndarray
    is_triangle: np.ndarray
    materials: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def from_json(cls, entries: Sequence[dict], where: str) -> Surfaces:
        """Read ``[{"points": [[x, y, z] * 3], "shape": "parallelogram" | "triangle", "material": CLASS}, ...]``.

        Raises ``InputError``, which begins with ``where``, for anything else.
        """
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{where}: surfaces is {entries!r:.60} but must be a list of at least one surface")
        for i, entry in enumerate(entries):
            shape = entry.get("shape", "parallelogram") if isinstance(entry, dict) else None
            if shape not in SHAPES:
                raise InputError(f"{where}: surface {i} has shape {shape!r} but must be one of {', '.join(SHAPES)}")
            try:
                points = np.asarray(entry.get("points"), dtype=np.float64)
            except (TypeError, ValueError):
                points = np.empty(0)
            if points.shape != (3, 3) or not (np.abs(points) < 1e4).all():
                raise InputError(
                    f"{where}: surface {i} has points {entry.get('points')!r:.60} "
                    "but needs 3 points of 3 finite metres below 10 km"
                )
            if np.linalg.norm(np.cross(points[1] - points[0], points[2] - points[0])) < 1e-9:
                raise InputError(f"{where}: surface {i} has no area; its 3 points must not lie on a line")
        materials = None
        if any("material" in entry for entry in entries):
            materials = np.array(
                [
                    material_number(entry["material"], f"{where}: material of surface {i}")
                    if "material" in entry
                    else UNKNOWN
                    for i, entry in enumerate(entries)
                ]
            )
        return cls(
            np.array([entry["points"] for entry in entries], dtype=np.float64),
            np.array([entry.get("shape", "parallelogram") == "triangle" for entry in entries]),
            materials,
        )

    def to_json(self) -> list[dict]:
        """The inverse of :meth:`from_json`."""
        materials = np.full(len(self), UNKNOWN) if self.materials is None else self.materials
        return [
            {
                "points": points.tolist(),
                "shape": SHAPES[int(triangle)],
                **({} if material == UNKNOWN else {"material": MATERIALS[material]}),
            }
            for points, triangle, material in zip(self.points, self.is_triangle, materials, strict=True)
        ]

    @classmethod
    def shoebox(cls, size: Sequence[float] | np.ndarray) -> Surfaces:
        """The six walls of a box of ``size`` (3,) metres with a corner at the origin."""
        x, y, z = (float(v) for v in size)
        corner, ex, ey, ez = np.zeros(3), np.array([x, 0, 0]), np.array([0, y, 0]), np.array([0, 0, z])
        walls = [
            (start, start + first, start + second)
            for first, second, normal in ((ey, ez, ex), (ex, ez, ey), (ex, ey, ez))
            for start in (corner, corner + normal)
        ]
        return cls(np.array(walls), np.zeros(6, dtype=bool))

    def normals(self) -> np.ndarray:
        """Unit normals (S, 3), to either side."""
        normal = np.cross(self.points[:, 1] - self.points[:, 0], self.points[:, 2] - self.points[:, 0])
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (3,) of the box around all surfaces, in metres."""
        fourth = self.points[:, 1] + self.points[:, 2] - self.points[:, 0]
        corners = np.concatenate([self.points.reshape(-1, 3), fourth[~self.is_triangle]])
        return corners.min(axis=0), corners.max(axis=0)


def box_around(points: np.ndarray, floor: float | None = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) m of a box around positions (N, 3) m, for a room of which nothing else is known.

    The floor is taken at z = ``floor`` if that lies below them all.
    """
    low, high = points.min(axis=0) - BESIDE, points.max(axis=0) + BESIDE
    if floor is not None and points[:, 2].min() - floor > LOWEST_FLOOR:
        low[2] = floor
    high[2] = max(high[2], low[2] + USUAL_HEIGHT)
    return low, high
