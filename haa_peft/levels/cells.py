"""Levels of RIRs in cells of time and frequency: eight spans after the direct sound, seven octaves.

The octaves' filters are triangles over the logarithm of frequency whose sum is one, so that gains of the octaves are a
gain that runs straight from one octave to the next.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import late_decay, sounding_part
from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE

OCTAVES = (125, 250, 500, 1000, 2000, 4000, 8000)
EDGES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds after the direct sound between the spans; what comes before it belongs to the first."""
EARLY_S = 0.002
"""Seconds before the direct sound that are counted."""
SPANS = len(EDGES_S) + 1
SPREADING = np.array([0.0] + [0.7] * (SPANS - 1))
"""How much less than by 1/r the level of a span falls with distance (:mod:`haa_peft.model.heads`)."""
RAMP = 33
"""Samples over which a gain goes from one span's to the next's."""
QUIETEST_DB = -120.0
"""Level of a silent cell, re the loudest sample of the measurements."""
LARGEST_DB = 25.0
"""Gains stay below it, either way."""
LOUDER = 3.0
"""Times the energy of the noise in a cell, above which what is measured there is mostly sound."""
PADDED = fft.next_fast_len(2 * RIR_LENGTH, real=True)


@lru_cache(maxsize=1)
def octave_filters() -> np.ndarray:
    """Gains (7, F) at the frequencies of a transform of ``PADDED`` samples; they add up to one."""
    frequency = fft.rfftfreq(PADDED, 1 / SAMPLE_RATE)
    place = np.log2(np.maximum(frequency, 1) / OCTAVES[0]).clip(0, len(OCTAVES) - 1)
    return np.maximum(0, 1 - np.abs(place - np.arange(len(OCTAVES))[:, None]))


def octaves(rirs: np.ndarray) -> np.ndarray:
    """RIRs (N, 9600) at 22 050 Hz in octaves, (N, 7, 9600), without delay; the sum gives them back."""
    spectra = fft.rfft(np.asarray(rirs, dtype=np.float32), PADDED)
    filters = octave_filters().astype(np.float32)
    return fft.irfft(spectra[:, None] * filters, PADDED)[..., :RIR_LENGTH]


def span_of(distance: np.ndarray) -> np.ndarray:
    """Number of the span that samples lie in, (N,) m -> (N, 9600); -1 before what is counted."""
    after = np.arange(RIR_LENGTH) / SAMPLE_RATE - np.asarray(distance)[:, None] / SPEED_OF_SOUND
    return np.digitize(after, EDGES_S) - (after < -EARLY_S)


def cell_levels(rirs: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Levels (N, 8, 7) dB of the energy in each span and octave, distance taken out.

    Distance is taken out as a spherical wave's for the direct sound, and by less later (``SPREADING``).

    Parameters
    ----------
    rirs : (N, 9600) at 22 050 Hz.
    distance : (N,) m between receiver and position.
    """
    return levels_of_octaves(octaves(rirs), distance)


def levels_of_octaves(bands: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """As :func:`cell_levels`, of :func:`octaves` (N, 7, 9600) and distances (N,) m."""
    found = np.empty((len(bands), SPANS, len(OCTAVES)))
    for i, (one, span) in enumerate(zip(bands, span_of(distance), strict=True)):
        power = np.pad(np.cumsum(one.astype(np.float64) ** 2, axis=1), ((0, 0), (1, 0)))
        found[i] = np.diff(power[:, np.searchsorted(span, np.arange(SPANS + 1))], axis=1).T
    levels = 10 * np.log10(np.maximum(found, 10 ** (QUIETEST_DB / 10)))
    return levels + distance_levels(distance)[..., None]


def distance_levels(distance: np.ndarray) -> np.ndarray:
    """What :func:`cell_levels` adds for distance, (N,) m -> (N, 8) dB."""
    return 20 * (1 - SPREADING) * np.log10(np.asarray(distance))[:, None]


def above_noise(rirs: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """In which spans and octaves RIRs (N, 9600) at distances (N,) m are louder than their noise, (N, 8, 7) bool.

    Noise is what is left where the decay of an octave has ended (:func:`~haa_peft.acoustics.iso.late_decay`); an octave
    in which nothing decays is noise.
    """
    bands = octaves(rirs)
    onset, end = sounding_part(np.asarray(rirs, dtype=np.float64))
    power = bands.reshape(-1, RIR_LENGTH).astype(np.float64) ** 2
    decay = late_decay(power, onset.repeat(len(OCTAVES)), end.repeat(len(OCTAVES)), SAMPLE_RATE)
    noise = np.where(np.isfinite(decay.rate), decay.noise, np.inf).reshape(-1, 1, len(OCTAVES))
    samples = (span_of(distance)[:, :, None] == np.arange(SPANS)).sum(axis=1)
    energy = 10 ** ((levels_of_octaves(bands, distance) - distance_levels(distance)[..., None]) / 10)
    return energy > LOUDER * noise * samples[..., None]


def with_gains(bands: np.ndarray, distance: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """RIRs (N, 9600) float32 whose spans and octaves have gains (N, 8, 7) dB.

    Parameters
    ----------
    bands, distance : :func:`octaves` (N, 7, 9600) of the RIRs as they are, and (N,) m between receiver and position.
    gains : no more than ``LARGEST_DB`` of them is used.
    """
    factors = 10 ** (np.clip(gains, -LARGEST_DB, LARGEST_DB) / 20)
    kernel = np.hanning(RAMP + 2)[1:-1] / np.hanning(RAMP + 2).sum()
    found = np.empty((len(bands), RIR_LENGTH), dtype=np.float32)
    for i, (one, span) in enumerate(zip(bands, span_of(distance), strict=True)):
        rising = np.zeros((len(OCTAVES), RIR_LENGTH + 2 * RAMP))  # of the gains, from sample to sample
        for number, edge in enumerate(np.searchsorted(span, np.arange(1, SPANS)), 1):
            first = edge + RAMP - RAMP // 2
            rising[:, first : first + RAMP] += (factors[i, number] - factors[i, number - 1])[:, None] * kernel
        smooth = factors[i, 0][:, None] + np.cumsum(rising, axis=1)[:, RAMP:-RAMP]
        found[i] = (one * smooth).sum(axis=0)
    return found
