"""Mending what measurements themselves say how to mend."""

from __future__ import annotations

import numpy as np
from scipy import fft


def shifted(rirs: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """RIRs (P, T) later by ``samples`` (P,), or earlier where negative: whole ones by zeros, fractions by phase.

    What is moved later than the end makes the RIRs longer; what is moved before the beginning is lost.
    """
    samples = np.broadcast_to(np.asarray(samples, dtype=float), len(rirs))
    whole = np.floor(samples).astype(int)
    length = rirs.shape[1] + max(0, int(np.ceil(samples.max())))
    moved = np.zeros((len(rirs), length))
    for row, rir, by in zip(moved, rirs, whole, strict=True):
        kept = rir[max(0, -by) :][: length - max(0, by)]
        row[max(0, by) : max(0, by) + len(kept)] = kept
    fraction = samples - whole
    if not fraction.any():
        return moved
    padded = fft.next_fast_len(length + 256, real=True)
    turn = np.exp(-2j * np.pi * fft.rfftfreq(padded) * fraction[:, None])
    return fft.irfft(fft.rfft(moved, padded) * turn, padded)[:, :length]
