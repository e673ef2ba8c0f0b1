"""Octaves of signals at any sample rate, and a band above all that the network models; they add up to one.

They are steeper than those of :mod:`haa_peft.levels.cells`, so that a band that decays fast is not filled by its
neighbours, and what lies below 88 Hz is an octave of its own.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

CENTRES = (63, 125, 250, 500, 1000, 2000, 4000, 8000)
"""Hz, of the octaves."""
OVERLAP = 1 / 3
"""Octaves within which one gives way to the next."""
CROSSOVER_HZ = (9_500.0, 10_500.0)
"""Between them the network's prediction gives way to the references, at rates above its own."""
BANDS = len(CENTRES) + 1
PRODUCT, SHORTEST_S = 8.0, 0.01
"""Energies are averaged over so many reciprocal bandwidths, and no less than so many seconds."""
AVERAGING_S = np.array([max(PRODUCT * 2**0.5 / octave, SHORTEST_S) for octave in (*CENTRES, 2 * CENTRES[-1])])
"""Seconds over which the energy of each band is averaged, (9,)."""


def band_filters(frequency: np.ndarray, above: bool = True) -> np.ndarray:
    """Gains (9, F) of the bands at frequencies (F,) in Hz, which add up to one; not ``above``, the last is zero."""
    place = np.log2(np.maximum(frequency, 1) / CENTRES[1]) + 1
    edges = np.arange(1, len(CENTRES))[:, None] - 0.5
    rising = np.sin(np.pi / 2 * ((place - edges) / OVERLAP + 0.5).clip(0, 1)) ** 2
    octaves = -np.diff(rising, axis=0, prepend=1, append=0)
    if not above:
        return np.concatenate([octaves, np.zeros((1, len(frequency)))]).astype(np.float32)
    low, high = CROSSOVER_HZ
    high_pass = np.sin(np.pi / 2 * ((frequency - low) / (high - low)).clip(0, 1)) ** 2
    return np.concatenate([octaves * (1 - high_pass), high_pass[None]]).astype(np.float32)


def averaged(power: np.ndarray, sample_rate: float, seconds: np.ndarray = AVERAGING_S) -> np.ndarray:
    """Power (B, T) averaged over time by triangles of ``seconds`` (B,), at ``sample_rate`` in Hz."""
    found = np.empty(power.shape)
    for row, length, out in zip(power, seconds, found, strict=True):
        width = 2 * max(1, round(length * sample_rate / 4)) + 1  # two boxes of half the length make the triangle
        uniform_filter1d(row, width, output=out, mode="constant")
        uniform_filter1d(out.copy(), width, output=out, mode="constant")
    return np.maximum(found, 0)
