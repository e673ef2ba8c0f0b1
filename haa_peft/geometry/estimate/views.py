"""An equirectangular picture as six perspective ones, as depth networks are trained on, and what they say together."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from haa_peft.geometry.estimate.depth_file import source_pixels

FIELD = np.radians(110.0)
"""Angle of a view; the faces of a cube overlap by 20 degrees, so that their scales can be compared."""
PIXELS = 384
AXES = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float64)
UPWARDS = np.array([[0, 0, 1]] * 4 + [[-1, 0, 0], [1, 0, 0]], dtype=np.float64)
"""Where the middle of each view looks, and where its upper edge is: +x, +y, -x, -y, up, down."""
HALF = np.tan(FIELD / 2)


def cut_views(picture: np.ndarray, centre_azimuth: float, clockwise: bool) -> np.ndarray:
    """Six perspective views (6, 384, 384, channels) of an equirectangular picture (height, width, channels).

    ``centre_azimuth`` and ``clockwise`` say which azimuth its middle has, and which way it turns from left to right.
    """
    right, down = np.meshgrid(*[(np.arange(PIXELS) + 0.5) / PIXELS * 2 * HALF - HALF] * 2)
    padded = np.pad(np.pad(picture, ((0, 0), (1, 1), (0, 0)), mode="wrap"), ((1, 1), (0, 0), (0, 0)), mode="edge")
    views = []
    for ahead, up in zip(AXES, UPWARDS, strict=True):
        ways = ahead + right[..., None] * np.cross(ahead, up) - down[..., None] * up
        row, column = source_pixels(ways, picture.shape, centre_azimuth, clockwise, False)
        places = [row + 1, column % picture.shape[1] + 1]
        channels = [map_coordinates(channel, places, order=1, mode="nearest") for channel in np.moveaxis(padded, -1, 0)]
        views.append(np.stack(channels, axis=-1))
    return np.array(views)


def look_up(images: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What six views show along rays: values, cosines and weights, each (6, ...).

    Parameters
    ----------
    images : (6, height, width), one value a pixel.
    rays : (..., 3) unit vectors.

    Returns
    -------
    The values; the cosines of the angles to the views' axes; weights that fall to zero at a view's edge and behind it.
    """
    values, cosines, weights = [], [], []
    for image, ahead, up in zip(images, AXES, UPWARDS, strict=True):
        cosine = rays @ ahead
        with np.errstate(divide="ignore", invalid="ignore"):
            right, down = (rays @ np.cross(ahead, up)) / cosine / HALF, -(rays @ up) / cosine / HALF
        weight = np.where(cosine > 0, np.clip(1 - np.maximum(np.abs(right), np.abs(down)), 0, None), 0.0)
        row, column = (
            (np.where(weight > 0, way, 0) + 1) / 2 * size - 0.5
            for way, size in zip((down, right), image.shape, strict=True)
        )
        values.append(map_coordinates(image, [row, column], order=1, mode="nearest"))
        cosines.append(cosine)
        weights.append(weight)
    return np.array(values), np.array(cosines), np.array(weights)
