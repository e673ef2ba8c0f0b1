"""Predicted RIRs at any sample rate and length.

What the network predicts, 0.435 s at 22 050 Hz, is kept. Above it come the references, aligned to the target, with the
gain that its highest octave has against theirs. Behind it, and where the references meet their noise, energies follow
the room's fitted decay (:mod:`haa_peft.rendering.decay`), in each band from the level that the prediction has reached.
The late field's waveform is that of the references, or of a diffuse field (:mod:`haa_peft.rendering.diffuse`), whose
energies are the predicted ones all the same.

Signals are spectra at multiples of one frequency, so that any sample rate is a number of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.acoustics.waveform import DISTANCE_RATE
from haa_peft.rendering.bands import AVERAGING_S, BANDS, averaged, band_filters
from haa_peft.rendering.decay import RoomDecay
from haa_peft.rendering.diffuse import diffuse_spectrum, field_seed, mixing_time

MODELLED_S = RIR_LENGTH / SAMPLE_RATE
MIXING_S, SEAM_S, ANCHOR_S = 0.01, 0.03, 0.06
"""Seconds over which the early part gives way to the diffuse field, a prediction to its continuation, and in which the
two are given the same energy."""
LOWEST = 2
"""Octaves that are one in the model's levels: soon after the mixing time they follow the room's decay in each. Rooms
have few modes there, so that their field is not diffuse, and is the references' in any case."""
SPARE_S = 0.1
"""Signals are longer by so much than what is asked for, since filters ring."""
TAPER = 0.95
"""Of half the sample rate, above which spectra are faded out where the rate is lower than theirs."""
COLOUR = 2 ** (1 / 12)
"""Late spectra are averaged over a sixth of an octave, this factor either way."""
TINY = 1e-20
LARGEST_GAIN = 10 ** (25 / 20)
"""Of the references above what is modelled."""


@dataclass(frozen=True)
class Renderer:
    """A room's late field, from its measurements.

    Attributes
    ----------
    rirs : (R, T) at ``rate`` Hz.
    positions : (R, 3) m in room coordinates, where they were measured.
    bounds : two corners (3,) m of the room.
    room : its name, which decides its diffuse field.
    least_s : seconds of a full length, at least; receivers share a diffuse field if theirs are the same.
    """

    rirs: np.ndarray
    rate: int
    positions: np.ndarray
    receiver: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    room: str
    least_s: float = MODELLED_S

    def with_length(self, seconds: float) -> Renderer:
        """The same with a full length of so many seconds, at least."""
        return dataclasses.replace(self, least_s=seconds)

    @cached_property
    def decay(self) -> RoomDecay:
        """Of the measurements."""
        return RoomDecay.of(self.rirs, self.rate, float(self._distances.min()) / SPEED_OF_SOUND)

    @property
    def full_s(self) -> float:
        """Seconds of a full length: until every octave has fallen by 60 dB."""
        return max(self.least_s, self.decay.full_s)

    @cached_property
    def _period(self) -> int:
        """Seconds of all spectra, whose frequencies are multiples of its reciprocal."""
        return int(np.ceil(self.full_s + SPARE_S))

    @property
    def _distances(self) -> np.ndarray:
        return np.linalg.norm(self.positions - self.receiver, axis=1)

    @cached_property
    def _spectra(self) -> np.ndarray:
        """Of the measurements, (R, F) complex64, per second."""
        return np.stack([fft.rfft(rir.astype(np.float32), self._period * self.rate) for rir in self.rirs]) / self.rate

    @cached_property
    def _colour(self) -> np.ndarray:
        """Magnitudes (F,) of the measurements' late fields."""
        time = np.arange(self.rirs.shape[1]) / self.rate
        power = np.zeros(self._period * self.rate // 2 + 1)
        for rir, distance in zip(self.rirs, self._distances, strict=True):
            late = time > distance / SPEED_OF_SOUND + mixing_time(*self.bounds)
            power += np.abs(fft.rfft(rir * late, self._period * self.rate)) ** 2
        sums = np.pad(np.cumsum(power), (1, 0))
        low = (np.arange(len(power)) / COLOUR).astype(int)
        high = np.minimum(np.ceil(np.arange(len(power)) * COLOUR).astype(int) + 1, len(power))
        return np.sqrt((sums[high] - sums[low]) / (high - low) + TINY).astype(np.float32)

    def render(
        self, predicted: np.ndarray, positions: np.ndarray, k: int, *, sample_rate: int, samples: int,
        diffuse: bool, seed: int, continued: bool = True,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """RIRs (T,) float32 at ``sample_rate``, one position after the other.

        Parameters
        ----------
        predicted, positions : (N, 9600) at 22 050 Hz, and (N, 3) m in room coordinates.
        k : measurements that each is continued from.
        sample_rate, samples : Hz, and how many of them; what lies behind :attr:`full_s` is silent.
        diffuse : whether the late field is a diffuse one.
        seed : of the diffuse field.
        continued : whether late levels are those of the fitted decay where the prediction ends or meets noise.
        """
        count = self._period * sample_rate
        frequency = np.arange(count // 2 + 1) / self._period
        field = _Target(self, sample_rate, count, frequency, band_filters(frequency, sample_rate > SAMPLE_RATE),
                        self.decay.at(sample_rate, count), diffuse, continued, field_seed(self.room, seed))  # fmt: skip
        for rir, position in zip(predicted, positions, strict=True):
            found = field.rir(rir, position, min(k, len(self.rirs)))[:samples]
            yield np.pad(found, (0, samples - len(found))).astype(np.float32)

    def aligned(self, position: np.ndarray, k: int, frequency: np.ndarray) -> np.ndarray:
        """Spectrum (F,) of the K nearest measurements' average, aligned to a position (3,) m, at frequencies (F,) Hz.

        They count by their distance, as in the phase of predictions.
        """
        away = np.linalg.norm(self.positions - position, axis=1)
        near = away.argsort(kind="stable")[:k]
        weights = np.exp(-DISTANCE_RATE * (away[near] - away[near[0]]))
        distance = float(np.linalg.norm(position - self.receiver))
        width = min(len(frequency), self._spectra.shape[1])
        found = np.zeros(len(frequency), dtype=np.complex64)
        for i, weight in zip(near, weights / weights.sum(), strict=True):
            later = (distance - self._distances[i]) / SPEED_OF_SOUND
            turn = np.exp((-2j * np.pi * later * frequency[:width]).astype(np.complex64))
            found[:width] += np.float32(weight * self._distances[i] / distance) * turn * self._spectra[i, :width]
        return found

    def coloured(self, frequency: np.ndarray) -> np.ndarray:
        """Magnitudes (F,) of the late field at frequencies (F,) Hz."""
        width = min(len(frequency), len(self._colour))
        return np.pad(self._colour[:width], (0, len(frequency) - width))


@dataclass(frozen=True)
class _Target:
    """What all positions of one call share."""

    room: Renderer
    rate: int
    count: int
    frequency: np.ndarray
    filters: np.ndarray
    decay: np.ndarray
    diffuse: bool
    continued: bool
    seed: int

    def rir(self, predicted: np.ndarray, position: np.ndarray, k: int) -> np.ndarray:
        """One RIR (T,), at least of the full length."""
        mixed = float(np.linalg.norm(position - self.room.receiver)) / SPEED_OF_SOUND + mixing_time(*self.room.bounds)
        time = np.arange(self.count) / self.rate
        bands = self._bands(self._resampled(predicted))
        references = self._bands(self.room.aligned(position, k, self.frequency) * self.rate)
        bands[-1] = references[-1] * _gain(bands[-2], references[-2], self.rate)
        knee = np.minimum(self.room.decay.knee_s, MODELLED_S - AVERAGING_S / 2) - SEAM_S
        knee = np.maximum(knee, mixed + ANCHOR_S)
        knee[:LOWEST] = np.minimum(knee, mixed + AVERAGING_S)[:LOWEST]
        power = bands.astype(np.float64) ** 2
        late = np.zeros(bands.shape)
        if self.continued:
            late = _ramps(time, knee, SEAM_S)
            power = (1 - late) * power + late * self._tail(power, knee)
        early = 1 - late
        if self.diffuse:
            fading = np.pi / 2 * _ramps(time, np.full(BANDS - LOWEST, mixed), MIXING_S)
            late[LOWEST:], early[LOWEST:] = np.sin(fading) ** 2, np.cos(fading)
        carrier = self._carrier(references, position, time) * np.sqrt(late)
        level = averaged(late * power, self.rate) / (averaged(carrier**2, self.rate) + TINY)
        return (early * bands + carrier * np.sqrt(level)).sum(axis=0)

    def _resampled(self, predicted: np.ndarray) -> np.ndarray:
        """Spectrum (F,) of a prediction (9600,) at 22 050 Hz, of the level that it has at this rate."""
        spectrum = fft.rfft(predicted.astype(np.float32), self.room._period * SAMPLE_RATE)
        width = min(len(spectrum), len(self.frequency))
        found = np.zeros(len(self.frequency), dtype=np.complex64)
        found[:width] = spectrum[:width] * np.float32(self.rate / SAMPLE_RATE)
        return found

    def _bands(self, spectrum: np.ndarray) -> np.ndarray:
        """Signals (9, T) of a spectrum (F,)."""
        if self.rate < SAMPLE_RATE:
            place = self.frequency / (self.rate / 2)
            spectrum = spectrum * np.cos(np.pi / 2 * ((place - TAPER) / (1 - TAPER)).clip(0, 1))
        return fft.irfft(spectrum * self.filters, self.count)

    def _tail(self, power: np.ndarray, knee: np.ndarray) -> np.ndarray:
        """The room's decay (9, T), with the energy of ``power`` (9, T) in the time before the knees (9,) s."""
        found = np.empty(power.shape)
        starts = knee - np.maximum(ANCHOR_S, AVERAGING_S)
        for row, decay, start, end, out in zip(power, self.decay, starts, knee, found, strict=True):
            last = slice(max(0, round(start * self.rate)), round(end * self.rate))
            out[:] = decay * (row[last].sum() / (decay[last].sum() + TINY))
        return found

    def _carrier(self, references: np.ndarray, position: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Waveforms (9, T) of the late field, of any level: a diffuse field, or references as far as they are heard."""
        noise = diffuse_spectrum(self.frequency, position, self.room.receiver, self.seed)
        noise = self._bands(noise * self.room.coloured(self.frequency))
        noise /= np.sqrt((noise**2).mean(axis=1, keepdims=True) + TINY)
        heard = _ramps(time, self.room.decay.knee_s - SEAM_S, SEAM_S)
        if self.diffuse:
            heard[LOWEST:] = 1
        level = np.sqrt(averaged(references.astype(np.float64) ** 2, self.rate) + TINY)
        return np.sqrt(1 - heard) * references / level + np.sqrt(heard) * noise


def _ramps(time: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """From 0 to 1 within ``length`` seconds after each of ``starts`` (9,), (9, T)."""
    return ((time - starts[:, None]) / length).clip(0, 1)


def _gain(predicted: np.ndarray, reference: np.ndarray, rate: int) -> np.ndarray:
    """By how much a band (T,) is louder than the references', (T,)."""
    power = averaged(np.stack([predicted, reference]).astype(np.float64) ** 2, rate, AVERAGING_S[[-1, -1]])
    return np.sqrt((power[0] + TINY) / (power[1] + TINY)).clip(1 / LARGEST_GAIN, LARGEST_GAIN)
