"""Speech transmission index of RIRs, by the indirect method of IEC 60268-16.

The modulation transfer function follows from the RIR (Schroeder, Acustica 49, 1981). There is no noise, and neither
masking nor the hearing threshold, which need absolute levels: what is given is the room's own share, the best that a
loudspeaker at the source can reach there. Weights are those of male speech in the edition of 2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from haa_peft.acoustics.iso import Floats, late_decay, octave_gain, sounding_part
from haa_peft.checks import is_rate, real_numbers
from haa_peft.errors import InputError

BANDS = (125, 250, 500, 1000, 2000, 4000, 8000)
"""At 22 050 Hz the highest octave ends at 11 025 Hz instead of 11 220 Hz."""
MODULATIONS = (0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0, 10.0, 12.5)
"""Hz."""
WEIGHTS = np.array([0.085, 0.127, 0.230, 0.233, 0.309, 0.224, 0.173])
REDUNDANCY = np.array([0.085, 0.078, 0.065, 0.011, 0.047, 0.095])
LARGEST_SNR_DB = 15.0
BLOCK_S = 0.0015
"""Energies are summed over so long before they are modulated."""


def speech_transmission_index(rirs: ArrayLike, sample_rate: float) -> Floats:
    """STI (N,) from 0 to 1 of RIRs (N, T), noise-free; NaN where an octave does not decay.

    Raises
    ------
    InputError
        When ``rirs`` are not two-dimensional, or the sample rate is too low for the octave of 8 kHz.
    """
    signals = real_numbers("rirs", rirs)
    if signals.ndim != 2 or signals.shape[1] == 0:
        raise InputError(f"rirs has shape {signals.shape} but must be (number of RIRs, samples)")
    if not is_rate(sample_rate) or sample_rate < 2 * BANDS[-1]:
        raise InputError(f"sample_rate is {sample_rate!r:.60} but must be at least {2 * BANDS[-1]} Hz for STI")
    onset, end = sounding_part(signals)
    length = signals.shape[1]
    padded = fft.next_fast_len(2 * length, real=True)
    spectra, frequencies = fft.rfft(signals, padded), fft.rfftfreq(padded, 1 / sample_rate)
    indices = np.empty((len(signals), len(BANDS)))
    for column, band in enumerate(BANDS):
        filtered = fft.irfft(spectra * octave_gain(frequencies, band), padded)[:, :length]
        decay = late_decay(filtered**2, onset, end, sample_rate)
        sample = np.arange(length)
        heard = np.where(sample < decay.cut[:, None], filtered**2 - decay.noise[:, None], 0.0)
        indices[:, column] = transfer_index(modulation(heard, sample_rate, decay.rate, decay.cut, decay.tail))
    cross = np.sqrt(indices[:, :-1] * indices[:, 1:])
    return np.minimum(indices @ WEIGHTS - cross @ REDUNDANCY, 1.0)


def modulation(power: Floats, sample_rate: float, rate: Floats, cut: ArrayLike, tail: Floats) -> Floats:
    """Modulation transfer (N, 14) at ``MODULATIONS`` of squared RIRs.

    Parameters
    ----------
    power : (N, T) up to ``cut``.
    sample_rate : Hz.
    rate, cut, tail : (N,) of the exponential decay behind it: nepers of energy per sample, first sample, energy.
    """
    block = max(1, round(BLOCK_S * sample_rate))
    energy = np.add.reduceat(power, np.arange(0, power.shape[1], block), axis=1)
    turn = 2j * np.pi * np.array(MODULATIONS) / sample_rate  # a sample
    middle = np.arange(energy.shape[1]) * block + (block - 1) / 2
    with np.errstate(invalid="ignore"):  # where nothing decays
        later = tail[:, None] * np.exp(-turn * np.asarray(cut)[:, None]) / (1 + turn / rate[:, None])
    return np.abs(energy @ np.exp(-np.outer(middle, turn)) + later) / (energy.sum(axis=1) + tail)[:, None]


def transfer_index(transfer: Floats) -> Floats:
    """Modulation transfer index (...,) of modulation transfers (..., 14): signal-to-noise ratios within 15 dB."""
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing decays, or no modulation is lost
        ratio = 10 * np.log10(transfer / (1 - np.minimum(transfer, 1)))
    return ((np.clip(ratio, -LARGEST_SNR_DB, LARGEST_SNR_DB) + LARGEST_SNR_DB) / (2 * LARGEST_SNR_DB)).mean(axis=-1)
