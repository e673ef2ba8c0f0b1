"""Decay curves as metrics read them: noise taken off, the late decay continued."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from haa_peft.acoustics.iso import TINY, late_decay, octave_gain, sounding_part
from haa_peft.checks import real_numbers
from haa_peft.maps.metrics import BROADBAND


def decay_curves(rirs: ArrayLike, sample_rate: float, band: str = BROADBAND) -> tuple[np.ndarray, list[np.ndarray]]:
    """Remaining energy after the direct sound (ISO 3382-1, backward integration).

    Parameters
    ----------
    rirs : (N, T) sound pressure.
    sample_rate : Hz.
    band : of :data:`~haa_peft.maps.metrics.BANDS`.

    Returns
    -------
    Time (T,) s from the direct sound on, and N curves (n,) dB that begin at 0 dB, each as far as it is measured, with
    n at most T.
    """
    signals = real_numbers("rirs", rirs)
    onset, end = sounding_part(signals)
    if band != BROADBAND:
        padded = fft.next_fast_len(2 * signals.shape[1], real=True)
        gain = octave_gain(fft.rfftfreq(padded, 1 / sample_rate), int(band))
        signals = fft.irfft(fft.rfft(signals, padded) * gain, padded)[:, : signals.shape[1]]
    decay = late_decay(signals**2, onset, end, sample_rate)
    curves = []
    for row, first, cut, noise, tail in zip(signals, onset, decay.cut, decay.noise, decay.tail, strict=True):
        heard = row[first : max(first, cut)] ** 2 - noise
        left = heard[::-1].cumsum()[::-1] + (tail if np.isfinite(tail) else 0.0)
        total = left[0] if len(left) else 0.0
        curves.append(10 * np.log10(np.maximum(left / total, TINY)) if total > 0 else np.empty(0))
    return np.arange(signals.shape[1]) / sample_rate, curves
