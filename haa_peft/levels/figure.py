"""A picture of what the device at the receiver sends in each direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from haa_peft.errors import InputError
from haa_peft.levels.cells import OCTAVES
from haa_peft.levels.room import RoomLevels

SHOWN = (500, 1000, 2000, 4000)
"""Octaves in the picture."""
DEEPEST_DB = -30
NEAR_DEGREES = 20
"""Measurements that lie nearer to a plane than this are marked in it."""


def draw_directivity(levels: RoomLevels, title: str, path: Path) -> None:
    """Write polar plots of the direct sound, around the horizon and in the vertical plane through the axis.

    Lines are the fitted level in octaves, bands its standard deviation; ticks at the rim are where it was measured.

    Parameters
    ----------
    levels : of a room.
    title : above the plots.
    path : of a picture; its ending says which kind.

    Raises
    ------
    InputError
        When matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('a plot needs matplotlib; pip install "haa-peft[plots]"') from None

    axis = levels.process.parameters.unit_axis[0].numpy()
    ahead = np.array([axis[0], axis[1], 0.0])
    ahead = ahead / np.linalg.norm(ahead) if np.linalg.norm(ahead) > 1e-6 else np.array([1.0, 0.0, 0.0])
    up = np.array([0.0, 0.0, 1.0])
    angle = np.linspace(0, 2 * np.pi, 181)
    measured = levels.positions / np.linalg.norm(levels.positions, axis=1, keepdims=True)
    planes = (
        ("around the horizon (0 is +x)", np.array([1.0, 0, 0]), np.array([0, 1.0, 0])),
        ("vertical, through the axis (0 is ahead)", ahead, up),
    )
    figure = Figure(figsize=(10, 5.8))
    for i, (label, first, second) in enumerate(planes):
        plot = figure.add_subplot(1, 2, 1 + i, projection="polar")
        rays = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
        mean, deviation = levels.directivity(rays)
        for band in SHOWN:
            column = OCTAVES.index(band)
            middle = mean[:, column].clip(DEEPEST_DB)
            (line,) = plot.plot(angle, middle, label=f"{band} Hz")
            low, high = (mean[:, column] + sign * deviation[:, column] for sign in (-1, 1))
            plot.fill_between(angle, low.clip(DEEPEST_DB), high.clip(DEEPEST_DB), color=line.get_color(), alpha=0.12)
        near = np.abs(measured @ np.cross(first, second)) < np.sin(np.radians(NEAR_DEGREES))
        at = np.arctan2(measured[near] @ second, measured[near] @ first)
        plot.plot(at, np.full(len(at), 5.0), "k|", markersize=6)
        plot.set(ylim=(DEEPEST_DB, 6), yticks=(-20, -10, 0))
        plot.set_title(label, pad=20)
    figure.legend(*plot.get_legend_handles_labels(), loc="lower center", ncols=len(SHOWN))
    figure.suptitle(f"{title}: direct sound, dB (bands: one standard deviation; ticks: measurements)")
    figure.subplots_adjust(top=0.78, bottom=0.14, left=0.05, right=0.95)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: cannot be written ({error})") from None
