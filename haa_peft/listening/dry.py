"""A dry sound that this package makes itself: a plucked phrase, claps, and something like speech."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.signal import lfilter, sosfilt

RATE = 48_000
"""Hz."""
PHRASE = ((0.0, 196.0), (0.25, 246.9), (0.5, 293.7), (0.75, 392.0), (1.0, 329.6), (1.5, 293.7), (1.75, 246.9),
          (2.0, 196.0))  # fmt: skip
"""Seconds and Hz of the plucked notes."""
CLAPS = (3.3, 3.7, 3.9, 4.3)
VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410)}
"""Hz of formants of a male voice (Peterson and Barney, 1952)."""
WIDTHS = (80, 100, 150)
"""Hz of the formants."""
SPEECH = ((4.9, "s", "a", 118), (5.25, "t", "o", 124), (5.6, "s", "i", 130), (6.1, "t", "e", 112),
          (6.45, "s", "a", 100))  # fmt: skip
"""Seconds, consonant, vowel and Hz of each syllable."""
SECONDS = 7.2


@lru_cache(maxsize=1)
def dry_sound() -> tuple[np.ndarray, int]:
    """Samples (T,) float32 and their rate in Hz: 7.2 s, at most 0.7, the same each time."""
    rng = np.random.default_rng(0)
    sound = np.zeros(round(SECONDS * RATE))
    for start, pitch in PHRASE:
        _add(sound, start, 0.5 * _pluck(pitch, rng))
    for start in CLAPS:
        _add(sound, start, _clap(rng))
    for start, consonant, vowel, pitch in SPEECH:
        _add(sound, start, _syllable(consonant, vowel, pitch, rng))
    sound *= 0.7 / np.abs(sound).max()
    sound = sound.astype(np.float32)
    sound.flags.writeable = False
    return sound, RATE


def _add(sound: np.ndarray, start: float, part: np.ndarray) -> None:
    first = round(start * RATE)
    part = part[: len(sound) - first]
    sound[first : first + len(part)] += part


def _pluck(pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A string of 1.2 s (Karplus and Strong, Computer Music Journal 7, 1983): noise in a loop that averages."""
    period = round(RATE / pitch)
    loop = np.zeros(period + 2)
    loop[0], loop[period:] = 1, -0.498
    burst = np.zeros(round(1.2 * RATE))
    burst[:period] = rng.uniform(-1, 1, period)
    return lfilter([1.0], loop, burst) * _fade(len(burst), 0.001, 0.1)


def _clap(rng: np.random.Generator) -> np.ndarray:
    """Noise about 1.5 kHz that decays within some milliseconds."""
    time = np.arange(round(0.08 * RATE)) / RATE
    noise = rng.standard_normal(len(time)) * np.exp(-time / 0.006)
    return 0.3 * _resonance(noise, 1500, 1500) + 0.1 * noise


def _syllable(consonant: str, vowel: str, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A fricative or a plosive, then a vowel: pulses of a falling pitch through three formants."""
    length = {"s": 0.09, "t": 0.02}[consonant]
    hiss = rng.standard_normal(round(length * RATE)) * _fade(round(length * RATE), 0.3 * length, 0.2 * length)
    hiss = _resonance(hiss, 5500, 2500)
    hiss *= 0.1 / np.abs(hiss).max()
    time = np.arange(round(0.22 * RATE)) / RATE
    cycles = pitch * (time - 0.4 * time**2)
    pulses = np.diff(np.floor(cycles), prepend=0) + 0.002 * rng.standard_normal(len(time))
    voiced = lfilter([1.0], [1, -0.97], pulses)
    for formant, width in zip(VOWELS[vowel], WIDTHS, strict=True):
        voiced = _resonance(voiced, formant, width)
    voiced *= 0.4 / np.abs(voiced).max() * _fade(len(time), 0.02, 0.08)
    return np.concatenate([hiss, voiced])


def _resonance(signal: np.ndarray, frequency: float, width: float) -> np.ndarray:
    """Through a resonator of gain one at zero (Klatt, J. Acoust. Soc. Am. 67, 1980), or a band of noise."""
    radius = np.exp(-np.pi * width / RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2
    return sosfilt([[1 + a1 + a2, 0, 0, 1, a1, a2]], signal)


def _fade(count: int, rise: float, fall: float) -> np.ndarray:
    """A window (count,) that rises and falls within so many seconds."""
    time = np.arange(count) / RATE
    return np.sin(np.pi / 2 * np.minimum(time / rise, (time[-1] - time) / fall).clip(0, 1)) ** 2
