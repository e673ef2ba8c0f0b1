"""Measurements as every source gives them: an RIR, where its sound began and where it was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.entry import UNITS

LARGEST = 4 << 30
"""Bytes of RIRs as float64, more than which are not read at once."""
ANGLES = {"degree": np.pi / 180, "degrees": np.pi / 180, "deg": np.pi / 180, "radian": 1.0, "radians": 1.0, "rad": 1.0}
LENGTHS = {"metre": "m", "metres": "m", "meter": "m", "meters": "m", "centimetre": "cm", "centimeter": "cm",
           "millimetre": "mm", "millimeter": "mm", "foot": "ft", "feet": "ft", "inch": "in"}  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """RIRs with both ends of their way, and what the source says.

    Attributes
    ----------
    rirs : (P, T) as measured.
    rate : Hz.
    sources, receivers : (P, 3) m; NaN where the source of data says nothing of them.
    channels : (P,) which channel, from 0.
    said : lines for people: what was found and taken for what.
    origin : where the data come from.
    licence : of the data.
    corners : (2, 3) m of a shoebox that the source states.
    views : (P,) degrees of azimuth where one listener looks who turns in one place; None for nobody.
    angular : positions came as angles, whose sign of azimuth may be another than stated.
    """

    rirs: np.ndarray
    rate: int
    sources: np.ndarray
    receivers: np.ndarray
    channels: np.ndarray
    said: tuple[str, ...]
    origin: str
    licence: str = "unknown"
    corners: np.ndarray | None = None
    views: np.ndarray | None = None
    angular: bool = False


def check_size(shape: Sequence[int], where: object) -> None:
    """Raise ``InputError`` for more RIRs than are read at once."""
    size = int(np.prod(shape, dtype=np.int64)) * 8
    if size > LARGEST:
        raise InputError(
            f"{where}: holds {' x '.join(map(str, shape))} samples, {size / 2**30:.0f} GiB, but at most "
            f"{LARGEST >> 30} GiB are read at once; take a part of it"
        )


def unit(text: str, where: object) -> float:
    """Metres of a unit of length, by its name or abbreviation; raises ``InputError`` for another."""
    short = LENGTHS.get(text.strip().lower(), text.strip().lower())
    if short not in UNITS:
        raise InputError(f"{where}: unit {text!r} is none of {', '.join(UNITS)}")
    return UNITS[short]


def from_angles(azimuth: np.ndarray, elevation: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Points (..., 3) of azimuth and elevation in radians, counterclockwise from x and up, and a distance."""
    level = distance * np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(elevation)], axis=-1)
