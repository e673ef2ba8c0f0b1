"""What is seen from the receiver: depth and coordinates in every direction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.channels import EXTRA_CHANNELS, MATERIALS, UNKNOWN
from haa_peft.geometry.surfaces import Surfaces

PANORAMA_HEIGHT, PANORAMA_WIDTH = 256, 512
HIDDEN, HIDDEN_IN_MAP = 0.01, 0.25
"""Metres by which a position must lie behind a surface, or behind what a depth map shows, to be hidden."""
EDGE_TOLERANCE = 1e-6
OPEN_SHARE = 0.25
"""Of the directions from the receiver; a room that is open in more of them is not around it."""
TRUST = {
    "stated": "as good as what was stated",
    "measured": "as good as unit, axes and convention are right, which positions and direct sound check in part",
    "estimated": "expect errors of tens of percent, and let validation errors say whether it serves",
    "assumed": "the room's shape is not in it",
}
"""How far a source of geometry can be trusted."""


@dataclass(frozen=True)
class DepthMap:
    """What bounds a room as seen from its receiver, where no planes are known.

    Attributes
    ----------
    depth : (256, 512) float32 metres, positive; directions as in :func:`directions`.
    source : where it comes from.
    trust : ``measured``, ``estimated`` or ``assumed``.
    low, high : (3,) metres in room coordinates, the box that positions must lie in; infinite if not known.
    notes : what was stated or detected and by what evidence, and how well it agrees with what was measured.
    open_share : share of the directions (solid angle) in which nothing was seen, and which are filled.
    normals : (256, 512, 3) float16 unit normals towards the receiver, zero where nothing was seen; None where only the
        depth is known, whose neighbouring pixels then give them.
    materials : (256, 512) int8 numbers of classes in ``MATERIALS``, or ``UNKNOWN``; None if none is known.
    """

    depth: np.ndarray
    source: str
    trust: str
    low: np.ndarray
    high: np.ndarray
    notes: tuple[str, ...] = ()
    open_share: float = 0.0
    normals: np.ndarray | None = None
    materials: np.ndarray | None = None

    @classmethod
    def unbounded(cls, depth: np.ndarray, source: str, notes: tuple[str, ...], trust: str = "assumed") -> DepthMap:
        """Of a depth that is not the room's own, so that positions may lie outside it.

        Parameters
        ----------
        depth : (256, 512) m.
        source, notes : where it comes from, and what is to be said of it.
        trust : one of ``TRUST``.
        """
        endless = np.full(3, np.inf)
        return cls(depth.astype(np.float32), source, trust, -endless, endless, notes)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (3,) of the box that positions must lie in, in metres."""
        return self.low, self.high

    def to_json(self) -> dict:
        """All but the arrays."""
        low, high = ([float(x) if np.isfinite(x) else None for x in corner] for corner in self.bounds())
        return {"source": self.source, "trust": self.trust, "low": low, "high": high, "notes": list(self.notes),
                "open_share": self.open_share}  # fmt: skip

    @classmethod
    def from_json(
        cls,
        about: dict,
        depth: np.ndarray,
        where: str,
        normals: np.ndarray | None = None,
        materials: np.ndarray | None = None,
    ) -> DepthMap:
        """The inverse of :meth:`to_json`.

        Parameters
        ----------
        about : what :meth:`to_json` gave.
        depth, normals, materials : (256, 512), (256, 512, 3) and (256, 512), as the attributes are.
        where : what an error begins with.

        Raises
        ------
        InputError
            When the arrays are of other shapes or values.
        """
        if depth.shape != (PANORAMA_HEIGHT, PANORAMA_WIDTH) or not (np.isfinite(depth).all() and (depth > 0).all()):
            raise InputError(f"{where}: depth is {depth.shape} but must be (256, 512) positive metres")
        if normals is not None and (normals.shape != (*depth.shape, 3) or not (np.abs(normals) <= 1.001).all()):
            raise InputError(f"{where}: normals are {normals.shape} but must be (256, 512, 3) from -1 to 1")
        if materials is not None and (
            materials.shape != depth.shape or not ((materials >= UNKNOWN) & (materials < len(MATERIALS))).all()
        ):
            raise InputError(f"{where}: materials are {materials.shape} but must be (256, 512) numbers of classes")
        low, high = (
            np.array([limit if x is None else x for x in about[name]], dtype=np.float64)
            for name, limit in (("low", -np.inf), ("high", np.inf))
        )
        if low.shape != (3,) or high.shape != (3,) or about["trust"] not in TRUST:
            raise InputError(f"{where}: has bounds {about['low']}, {about['high']} and trust {about['trust']!r}")
        return cls(
            depth.astype(np.float32), str(about["source"]), about["trust"], low, high,
            tuple(str(note) for note in about["notes"]), float(about["open_share"]), normals, materials,
        )  # fmt: skip


Geometry = Surfaces | DepthMap
"""What is known of a room's shape; both render to a panorama and have bounds."""


def directions(height: int = PANORAMA_HEIGHT, width: int = PANORAMA_WIDTH) -> np.ndarray:
    """Unit vector of every pixel, (height, width, 3).

    Row 0 looks up, the last row down; columns go from azimuth -180 degrees; azimuth 0 is +x, +90 degrees +y.
    Source: published xRIR code, whose depth maps and coordinates are centred on pixels.
    """
    elevation = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    azimuth = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    el, az = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1)


def pixels_of(rays: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (...,), as fractions of pixels, that rays (..., 3) pass through: the inverse of directions."""
    azimuth = np.arctan2(rays[..., 1], rays[..., 0])
    elevation = np.arctan2(rays[..., 2], np.linalg.norm(rays[..., :2], axis=-1))
    return (np.pi / 2 - elevation) / np.pi * height - 0.5, (azimuth + np.pi) / (2 * np.pi) * width - 0.5


def solid_angles(height: int = PANORAMA_HEIGHT, width: int = PANORAMA_WIDTH) -> np.ndarray:
    """Share of the sphere that each pixel covers, (height, width); 1 together."""
    edges = np.sin(np.pi / 2 - np.arange(height + 1) / height * np.pi)
    return np.repeat((edges[:-1] - edges[1:])[:, None] / (2 * width), width, axis=1)


def open_share(depth: np.ndarray) -> float:
    """Share of the sphere in which a depth map (height, width) sees nothing."""
    return float(solid_angles(*depth.shape)[~np.isfinite(depth)].sum())


def render_depth(surfaces: Surfaces, receiver: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance (...,) in metres along rays (..., 3) from the receiver (3,) to the nearest surface, or inf."""
    return _distances(surfaces, receiver, rays).min(axis=-1)


def is_hidden(geometry: Geometry, receiver: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Which positions (N, 3) m the receiver (3,) m does not see, both in room coordinates: (N,) bool."""
    away = positions - receiver
    distance = np.linalg.norm(away, axis=1)
    if isinstance(geometry, Surfaces):
        return render_depth(geometry, receiver, away / distance[:, None]) < distance - HIDDEN
    height, width = geometry.depth.shape
    row, column = (np.rint(pixel).astype(int) for pixel in pixels_of(away, height, width))
    return geometry.depth[row.clip(0, height - 1), column % width] < distance - HIDDEN_IN_MAP


def _distances(surfaces: Surfaces, receiver: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance in metres to every surface along each ray from the receiver, (..., S), inf where it is not hit.

    Parameters
    ----------
    surfaces : the room's S surfaces, in room coordinates.
    receiver : (3,) metres, in room coordinates.
    rays : (..., 3) unit vectors.
    """
    corner = surfaces.points[:, 0] - receiver
    first = surfaces.points[:, 1] - surfaces.points[:, 0]
    second = surfaces.points[:, 2] - surfaces.points[:, 0]
    normal = np.cross(first, second)
    # ray t d = corner + a first + b second, solved for t, a and b by scalar triple products (Cramer's rule)
    with np.errstate(divide="ignore", invalid="ignore"):
        facing = 1 / (rays @ normal.T)
        distance = (corner * normal).sum(axis=1) * facing
        a = (rays @ np.cross(second, corner).T) * facing
        b = (rays @ np.cross(corner, first).T) * facing
        low, high = -EDGE_TOLERANCE, 1 + EDGE_TOLERANCE
        hit = (distance > 0) & (a >= low) & (b >= low) & (a <= high) & (b <= high)
        hit &= ~surfaces.is_triangle | (a + b <= high)
    return np.where(hit, distance, np.inf)


def depth_around(geometry: Geometry, receiver: np.ndarray) -> np.ndarray:
    """Depth (256, 512) in metres around the receiver (3,), inf where planes leave a room open."""
    if isinstance(geometry, DepthMap):
        return geometry.depth
    receiver = np.asarray(receiver, dtype=np.float64)
    return np.concatenate([render_depth(geometry, receiver, rows) for rows in np.array_split(directions(), 8)])


def render_panorama(geometry: Geometry, receiver: np.ndarray, channels: Sequence[str] = ()) -> np.ndarray:
    """Coordinates in metres, from the receiver (3,), of what each pixel sees: (3, 256, 512) float32.

    Where planes leave a room open, the pixel takes the farthest distance that is seen anywhere. With ``channels``,
    those of :func:`surface_channels` lie behind.
    """
    panorama = panorama_from_depth(depth_around(geometry, receiver))
    return np.concatenate([panorama, surface_channels(geometry, receiver, channels)]) if channels else panorama


def surface_channels(geometry: Geometry, receiver: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """What each pixel's surface is, seen from the receiver (3,) m: (3 + classes, 256, 512) float32.

    With ``normals`` among the channels the first three are its unit normal towards the receiver; with ``materials`` the
    others are 1 for its class in ``MATERIALS``. All else is zero, as where nothing is known or seen.
    """
    found = np.zeros((EXTRA_CHANNELS, PANORAMA_HEIGHT, PANORAMA_WIDTH), dtype=np.float32)
    rays = directions()
    if isinstance(geometry, Surfaces):
        receiver = np.asarray(receiver, dtype=np.float64)
        distances = [_distances(geometry, receiver, rows) for rows in np.array_split(rays, 8)]
        surface = np.concatenate([rows.argmin(axis=-1) for rows in distances])
        seen = np.concatenate([np.isfinite(rows).any(axis=-1) for rows in distances])
        normals = np.where(seen[..., None], facing(geometry.normals()[surface], rays), 0)
        materials = None if geometry.materials is None else np.where(seen, geometry.materials[surface], UNKNOWN)
    else:
        materials = geometry.materials
        if geometry.normals is None:
            import torch

            from haa_peft.geometry.reflections import normals_from_neighbours

            points = torch.from_numpy(geometry.depth[..., None] * rays)
            normals = normals_from_neighbours(points, torch.from_numpy(rays)).numpy()
        else:
            normals = geometry.normals
    if "normals" in channels:
        found[:3] = np.moveaxis(normals, -1, 0)
    if "materials" in channels and materials is not None:
        found[3:] = materials == np.arange(len(MATERIALS))[:, None, None]
    return found


def facing(normals: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Normals (..., 3) turned to the side that rays (..., 3) come from."""
    return np.where((normals * rays).sum(axis=-1, keepdims=True) > 0, -normals, normals)


def without_channels(geometry: Geometry, channels: Sequence[str]) -> Geometry:
    """The geometry without what channels other than these would show."""
    if isinstance(geometry, DepthMap) and "normals" not in channels:
        geometry = dataclasses.replace(geometry, normals=None)
    return geometry if "materials" in channels else dataclasses.replace(geometry, materials=None)


def panorama_from_depth(depth: np.ndarray) -> np.ndarray:
    """Coordinates (3, 256, 512) float32 from a depth map (256, 512) in metres, inf where nothing is seen."""
    seen = np.isfinite(depth)
    filled = np.where(seen, depth, depth[seen].max() if seen.any() else np.nan)
    return np.moveaxis(filled[..., None] * directions(*depth.shape), -1, 0).astype(np.float32)
