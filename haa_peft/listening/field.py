"""An RIR taken apart: what comes from directions, and a diffuse field whose channels differ.

The field's own channel is the RIR as it is predicted. Others are noise with its energies in each band and time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from haa_peft.acoustics.sampling import SAMPLE_RATE
from haa_peft.listening.arrivals import Surroundings, shares
from haa_peft.rendering.bands import averaged, band_filters
from haa_peft.rendering.render import COLOUR

SPARE_S = 0.1
TINY = 1e-30


@dataclass(frozen=True)
class Field:
    """Attributes.

    Attributes
    ----------
    directed : (E, n) what comes from each of the directions.
    directions : (E, 3) unit vectors from the head, in room coordinates.
    diffuse : (T,) the rest of the RIR.
    others : (J, T) of the same energies, and independent of it and of each other.
    """

    directed: np.ndarray
    directions: np.ndarray
    diffuse: np.ndarray
    others: np.ndarray


class Fields:
    """Takes the RIRs of one room apart; the noise stays the same, so that neighbours are alike.

    Parameters
    ----------
    surroundings : the room.
    rate : Hz.
    others : channels of the diffuse field beside its own.
    seed : of the noise.
    """

    def __init__(self, surroundings: Surroundings, rate: int, others: int, seed: int) -> None:
        self._around, self._rate, self._others, self._seed = surroundings, rate, others, seed
        self._carriers: np.ndarray | None = None

    def of(self, rir: np.ndarray, position: np.ndarray) -> Field:
        """The field of an RIR (T,) at or from a position (3,) m."""
        found = self._around.arrivals(position)
        share = shares(found, self._rate, len(rir))
        left = np.ones(len(rir))
        left[: share.shape[1]] -= share.sum(axis=0)
        diffuse = rir * left
        others = self._noise(diffuse, left) if self._others else np.zeros((0, len(rir)))
        return Field(share * rir[: share.shape[1]], found.directions, diffuse, others)

    def _noise(self, diffuse: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Noise (J, T) with the energies of the diffuse part (T,), none where nothing is ``left`` (T,) to it."""
        if self._carriers is None:
            self._carriers = self._make_carriers(diffuse)
        bands = self._bands(diffuse)
        level = left * np.sqrt(averaged(bands.astype(float) ** 2, self._rate))
        noise = self._carriers * level
        energy = (bands.astype(float) ** 2).sum(axis=-1)
        gain = np.sqrt(energy / ((noise**2).sum(axis=-1) + TINY))
        return (noise * gain[..., None]).sum(axis=1)

    def _make_carriers(self, diffuse: np.ndarray) -> np.ndarray:
        """Noise (J, 9, T) of power one, with the colour of a diffuse part (T,)."""
        count = len(diffuse)
        power = np.abs(fft.rfft(diffuse, self._padded(count))) ** 2
        sums = np.pad(np.cumsum(power), (1, 0))
        low = (np.arange(len(power)) / COLOUR).astype(int)
        high = np.minimum(np.ceil(np.arange(len(power)) * COLOUR).astype(int) + 1, len(power))
        colour = np.sqrt((sums[high] - sums[low]) / (high - low))
        drawn = np.random.default_rng(self._seed).standard_normal((self._others, self._padded(count)))
        found = np.stack([self._bands(fft.irfft(fft.rfft(one) * colour, len(one)))[:, :count] for one in drawn])
        found /= np.sqrt(np.stack([averaged(one.astype(float) ** 2, self._rate) for one in found]) + TINY)
        return found

    def _bands(self, signal: np.ndarray) -> np.ndarray:
        """Bands (9, T) of a signal (T,)."""
        padded = self._padded(len(signal))
        filters = band_filters(fft.rfftfreq(padded, 1 / self._rate), self._rate > SAMPLE_RATE)
        return fft.irfft(fft.rfft(signal, padded) * filters, padded)[:, : len(signal)]

    def _padded(self, count: int) -> int:
        return fft.next_fast_len(count + round(SPARE_S * self._rate), real=True)
