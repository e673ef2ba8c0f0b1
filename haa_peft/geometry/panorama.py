"""What is seen from the receiver: depth and coordinates in every direction."""

from __future__ import annotations

import numpy as np

from haa_peft.geometry.surfaces import Surfaces

PANORAMA_HEIGHT, PANORAMA_WIDTH = 256, 512
EDGE_TOLERANCE = 1e-6


def directions(height: int = PANORAMA_HEIGHT, width: int = PANORAMA_WIDTH) -> np.ndarray:
    """Unit vector of every pixel, (height, width, 3).

    Row 0 looks up, the last row down; columns go from azimuth -180 degrees; azimuth 0 is +x, +90 degrees +y.
    Source: published xRIR code, whose depth maps and coordinates are centred on pixels.
    """
    elevation = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    azimuth = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    el, az = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1)


def render_depth(surfaces: Surfaces, receiver: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance in metres to the nearest surface along each ray from the receiver, inf where there is none.

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
    return np.where(hit, distance, np.inf).min(axis=-1)


def render_panorama(surfaces: Surfaces, receiver: np.ndarray) -> np.ndarray:
    """Coordinates in metres, from the receiver, of what each pixel sees: (3, 256, 512) float32.

    Where a room is open, the pixel takes the farthest distance that is seen anywhere.
    """
    receiver = np.asarray(receiver, dtype=np.float64)
    depth = np.concatenate([render_depth(surfaces, receiver, rows) for rows in np.array_split(directions(), 8)])
    return panorama_from_depth(depth)


def panorama_from_depth(depth: np.ndarray) -> np.ndarray:
    """Coordinates (3, 256, 512) float32 from a depth map (256, 512) in metres, inf where nothing is seen."""
    seen = np.isfinite(depth)
    filled = np.where(seen, depth, depth[seen].max() if seen.any() else np.nan)
    return np.moveaxis(filled[..., None] * directions(*depth.shape), -1, 0).astype(np.float32)
