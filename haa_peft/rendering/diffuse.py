"""A diffuse sound field: noise whose coherence between two places is sin(kd) / (kd).

At each frequency it is a sum of plane waves from directions all around, drawn once for a room, with random phases
(Pierce, Acoustics, chapter 6: rooms above the Schroeder frequency). It is continuous in position, and the same for the
same room and seed.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND

WAVES = 12
"""At each frequency; frequencies have directions of their own, so that few are enough."""


UNKNOWN_MIXING_S = 0.03
"""Mixing time of a room of unknown size: that of 250 m3 of usual proportions."""


def field_seed(room: str, seed: int) -> int:
    """Of the field of a room, from its name and a number."""
    return zlib.crc32(f"{seed}:{room}".encode())


@lru_cache(maxsize=2)
def _waves(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions at both ends, (F, W, 3) each, and phases (F, W) in radians; others behind them change none."""
    drawn = np.random.default_rng(seed).random((count, WAVES, 5), dtype=np.float32)

    def directions(height: np.ndarray, around: np.ndarray) -> np.ndarray:
        z, angle = 2 * height - 1, 2 * np.pi * around
        flat = np.sqrt(1 - z * z)
        return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=-1).astype(np.float32)

    return directions(drawn[..., 0], drawn[..., 1]), directions(drawn[..., 2], drawn[..., 3]), 2 * np.pi * drawn[..., 4]


def diffuse_spectrum(frequency: np.ndarray, position: np.ndarray, receiver: np.ndarray, seed: int) -> np.ndarray:
    """Spectrum (F,) of noise of mean power one, between a position and a receiver.

    Its coherence between two positions at a distance d is sinc(kd), and so it is between two receivers.

    Parameters
    ----------
    frequency : (F,) Hz, of which each draws its waves from those behind the ones before.
    position, receiver : (3,) m in room coordinates.
    seed : of the field.
    """
    here, there, phases = _waves(seed, len(frequency))
    wave_number = (2 * np.pi / SPEED_OF_SOUND * frequency).astype(np.float32)[:, None]
    place = here @ np.asarray(position, dtype=np.float32) + there @ np.asarray(receiver, dtype=np.float32)
    angle = phases - wave_number * place
    return (np.cos(angle).sum(axis=1) + 1j * np.sin(angle).sum(axis=1)).astype(np.complex64) / np.float32(WAVES**0.5)


def mixing_time(low: np.ndarray, high: np.ndarray) -> float:
    """Seconds after the direct sound from which a room's field is taken as diffuse.

    The perceptual mixing time 20 V/S + 12 ms of Lindau, Kosanke and Weinzierl (J. Audio Eng. Soc. 60, 2012), of the box
    between two corners (3,) m; 30 ms where these are not known.
    """
    if not np.isfinite([low, high]).all():
        return UNKNOWN_MIXING_S
    size = np.maximum(high - low, 0.1)
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    return float(20 * size.prod() / surface + 12) / 1000
