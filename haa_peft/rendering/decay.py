"""How a room's measurements decay, in each band, without their noise and beyond their end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from haa_peft.acoustics.iso import NEPERS_PER_DB, SETTLING_S, LateDecay, late_decay
from haa_peft.rendering.bands import AVERAGING_S, BANDS, averaged, band_filters

GRID = 1000
"""Values a second."""
LONGEST_S = 10.0
"""RIRs are continued no further."""
MOST = 24
"""RIRs that a decay is averaged from."""
CLEAR_DB, JOIN_DB, RAMP_DB = 10.0, 5.0, 10.0
"""Above the noise down to which a decay is taken as measured; where the fitted one takes over; how long that takes."""
LEAST_DB = 15.0
"""Decay that a band must show for its own rate to be taken."""
FULL_DB = 60.0
"""Octaves have fallen by so much at the end of a full length."""
QUIET_DB = 40.0
"""Bands that are weaker than the strongest by more do not lengthen it."""


@dataclass(frozen=True)
class RoomDecay:
    """Mean decay of a room's measurements over the time since the sound was sent.

    Attributes
    ----------
    energy : (9, 10 000) mean square in each millisecond, of the bands; measured, then fitted.
    knee_s : (9,) seconds until when it is measured.
    full_s : seconds until every octave has fallen by 60 dB.
    """

    energy: np.ndarray
    knee_s: np.ndarray
    full_s: float

    @classmethod
    def of(cls, rirs: np.ndarray, sample_rate: int, first_s: float) -> RoomDecay:
        """Average and fit.

        Parameters
        ----------
        rirs : (R, T), at ``sample_rate`` in Hz.
        first_s : seconds after which the first direct sound arrives.
        """
        power = mean_power(rirs[np.linspace(0, len(rirs) - 1, min(MOST, len(rirs))).astype(int)], sample_rate)
        heard = np.flatnonzero(np.abs(rirs).max(axis=0) > 0)
        end = max(2, int((heard[-1] + 1) * GRID / sample_rate)) if len(heard) else 2
        ends = np.full(BANDS, min(end, power.shape[1]))
        onset = min(int(first_s * GRID), end - 2)
        fitted = _completed(late_decay(power, np.full(BANDS, onset), ends, GRID), power, onset, ends)
        energy, knee = _continued(fitted, power, ends)
        return cls(energy, knee, _full_length(energy))

    def at(self, sample_rate: int, count: int) -> np.ndarray:
        """Mean square (9, T) at the first ``count`` samples of a rate in Hz."""
        time = np.arange(count) / sample_rate * GRID - 0.5
        return np.stack([np.interp(time, np.arange(len(row)), row) for row in self.energy])


def mean_power(rirs: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean square (9, M) of RIRs (R, T) in the bands and each millisecond, their mean."""
    length = rirs.shape[1]
    padded = fft.next_fast_len(length + sample_rate // 10, real=True)
    filters = band_filters(fft.rfftfreq(padded, 1 / sample_rate))
    edges = np.round(np.arange(int(length / sample_rate * GRID) + 1) * sample_rate / GRID).astype(int)
    total = np.zeros((BANDS, len(edges) - 1))
    for rir in rirs:
        bands = fft.irfft(fft.rfft(rir.astype(np.float32), padded) * filters, padded)[:, :length]
        sums = np.pad(np.cumsum(bands.astype(np.float64) ** 2, axis=1), ((0, 0), (1, 0)))
        total += np.diff(sums[:, edges]) / np.diff(edges)
    return total / len(rirs)


def _completed(fitted: LateDecay, power: np.ndarray, onset: int, ends: np.ndarray) -> LateDecay:
    """Bands that show less than ``LEAST_DB`` of decay get the rate of the nearest that shows more.

    What they hold at the end is then taken for noise, and they are cut where they come within 3 dB of it.
    """
    seen = fitted.rate * (fitted.cut - onset - SETTLING_S * GRID) / NEPERS_PER_DB
    known = np.flatnonzero((np.nan_to_num(seen) >= LEAST_DB) & (fitted.tail > 0))
    smooth = averaged(power, GRID)
    for band in np.setdiff1d(np.arange(BANDS), known):
        noise = power[band, ends[band] * 9 // 10 : ends[band]].mean()
        near = known[np.abs(known - band).argmin()] if len(known) else None
        fitted.rate[band] = 1.0 if near is None else fitted.rate[near]
        fitted.noise[band], fitted.tail[band] = noise, 0.0 if near is None else noise / fitted.rate[near]
        within = (smooth[band] <= 2 * noise) & (np.arange(power.shape[1]) > onset)
        fitted.cut[band] = within.argmax() if within.any() else ends[band]
    return fitted


def _continued(fitted: LateDecay, power: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (9, M) without noise and with what was fitted behind, and until when they are measured, (9,) s."""
    time = np.arange(round(LONGEST_S * GRID)) + 0.5
    rate, cut, tail, noise = (np.asarray(x, float)[:, None] for x in
                              (fitted.rate, fitted.cut, fitted.tail, fitted.noise))  # fmt: skip
    line = tail * rate * np.exp(np.minimum(-rate * (time - cut), 50))
    measured = np.zeros_like(line)
    width = min(power.shape[1], len(time))
    measured[:, :width] = np.maximum(averaged(power, GRID) - noise, 0)[:, :width]
    decibel = NEPERS_PER_DB / rate
    last = ends[:, None] - GRID * AVERAGING_S[:, None] / 2
    join = np.minimum(np.where(cut < ends[:, None] - 1, cut - JOIN_DB * decibel, np.inf), last)
    share = ((time - join) / np.clip(RAMP_DB * decibel, 5, 100) + 1).clip(0, 1)
    knee = np.minimum(np.where(cut < ends[:, None] - 1, cut - CLEAR_DB * decibel, np.inf), last)
    return (1 - share) * measured + share * line, np.maximum(knee[:, 0], 0) / GRID


def _full_length(energy: np.ndarray) -> float:
    """Seconds until every octave has fallen by 60 dB."""
    left = energy[:, ::-1].cumsum(axis=1)[:, ::-1]
    strong = left[:, 0] > left[:, 0].max() * 10 ** (-QUIET_DB / 10)
    fallen = left > left[:, :1] * 10 ** (-FULL_DB / 10)
    return float(max([1, *(int(row.sum()) for row in fallen[strong])]) / GRID)
