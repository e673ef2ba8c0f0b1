"""How loud a sound is, by ITU-R BS.1770-4, while it passes."""

from __future__ import annotations

import numpy as np
from scipy.signal import sosfilt

HOP_S, HOPS = 0.1, 4
"""Loudness is taken over blocks of so many hops, one beginning with each."""
OFFSET, ABSOLUTE, RELATIVE = -0.691, -70.0, -10.0
"""dB: of a full scale, and the gates below which blocks do not count."""
SHELF, HIGH_PASS = (1681.974450955533, 3.999843853973347, 0.7071752369554196), (38.13547087602444, 0.5003270373238773)
"""Hz, dB and Q of the analogue filters whose bilinear transforms at 48 kHz are those of the standard's annex 1."""


def k_weighting(rate: float) -> np.ndarray:
    """Two second-order sections (2, 6) at a rate in Hz: a head's shelf, and a high-pass filter."""
    (frequency, gain, q), (corner, width) = SHELF, HIGH_PASS
    k, high = np.tan(np.pi * frequency / rate), 10 ** (gain / 20)
    middle = high**0.4996667741545416
    shelf = [high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k]
    below = 1 + k / q + k * k
    first = [*(x / below for x in shelf), 1, 2 * (k * k - 1) / below, (1 - k / q + k * k) / below]
    k = np.tan(np.pi * corner / rate)
    below = 1 + k / width + k * k
    return np.array([first, [1, -2, 1, 1, 2 * (k * k - 1) / below, (1 - k / width + k * k) / below]])


class Meter:
    """Peak and loudness of a sound of any length, of which little is kept.

    Attributes
    ----------
    peak : largest magnitude so far.
    """

    def __init__(self, rate: int) -> None:
        self.peak = 0.0
        self._sections, self._hop = k_weighting(rate), round(HOP_S * rate)
        self._state: np.ndarray | None = None
        self._open = np.empty(0)
        self._hops: list[float] = []

    def add(self, block: np.ndarray, heard: int | None = None) -> None:
        """Take the next samples (C, n), of whose channels the first ``heard`` (all unless given) count as loud."""
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        block = block[:heard]
        if self._state is None:
            self._state = np.zeros((len(self._sections), len(block), 2))
        weighted, self._state = sosfilt(self._sections, block.astype(np.float64), axis=1, zi=self._state)
        power = np.concatenate([self._open, (weighted**2).sum(axis=0)])
        whole = len(power) // self._hop
        self._hops += power[: whole * self._hop].reshape(whole, self._hop).mean(axis=1).tolist()
        self._open = power[whole * self._hop :]

    @property
    def loudness(self) -> float:
        """Integrated loudness in LUFS; minus infinity where nothing is above the gate."""
        hops = np.array(self._hops)
        if len(hops) < HOPS:  # shorter than a block
            hops = np.pad(hops, (0, HOPS - len(hops)))
        power = np.lib.stride_tricks.sliding_window_view(hops, HOPS).mean(axis=1)
        power = power[power > 10 ** ((ABSOLUTE - OFFSET) / 10)]
        if not len(power):
            return -np.inf
        power = power[power > power.mean() * 10 ** (RELATIVE / 10)]
        return float(OFFSET + 10 * np.log10(power.mean()))
