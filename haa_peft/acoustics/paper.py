"""Metrics as the published xRIR evaluation computes them; not ISO 3382-1 (see ``haa_peft.acoustics.iso``).

They start at sample 0, so they contain the propagation delay, and read two points of the decay curve.
"""

from __future__ import annotations

import numpy as np

from haa_peft.checks import measured_rirs


def paper_metrics(rirs: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
    """Early decay time, clarity and reverberation times in the published way.

    Parameters
    ----------
    rirs : (N, T) RIRs.
    sample_rate : Hz.

    Returns
    -------
    dict of (N,) arrays, NaN where the decay does not reach the level needed: ``edt_s`` (0 to -10 dB),
    ``c50_db``, ``t60_20_s`` (-5 to -25 dB) and ``t60_30_s`` (-5 to -35 dB).

    Raises
    ------
    InputError
        When ``rirs`` are no two-dimensional real numbers, or ``sample_rate`` is not positive.
    """
    signals = measured_rirs(rirs, sample_rate)
    power = signals**2
    remaining = np.cumsum(power[:, ::-1], axis=1)[:, ::-1]
    # the curve ends before its last non-zero sample
    kept = np.cumsum((remaining > 0)[:, ::-1], axis=1)[:, ::-1] > 1
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(kept, 10 * np.log10(remaining / remaining[:, :1]), np.nan)
        early = int(0.05 * sample_rate) + 1
        c50 = 10 * np.log10(power[:, :early].sum(axis=1) / power[:, early:].sum(axis=1))
    at = {limit: _first_below(level, limit) for limit in (-5, -10, -25, -35)}
    return {
        "edt_s": 6 * at[-10] / sample_rate,
        "c50_db": np.where(np.isfinite(c50), c50, np.nan),
        "t60_20_s": 3 * (at[-25] - at[-5]) / sample_rate,
        "t60_30_s": 2 * (at[-35] - at[-5]) / sample_rate,
    }


def _first_below(level: np.ndarray, limit: float) -> np.ndarray:
    """First index strictly below ``limit`` in each row, NaN where there is none."""
    below = level < limit
    return np.where(below.any(axis=1), below.argmax(axis=1), np.nan)


def envelope_error(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean difference of Hilbert envelopes in percent of the true envelope's maximum, (N, T) twice -> (N,)."""
    from scipy.signal import hilbert

    predicted_envelope = np.abs(hilbert(np.asarray(predicted, dtype=np.float64), axis=1))
    true_envelope = np.abs(hilbert(np.asarray(true, dtype=np.float64), axis=1))
    return 100 * np.abs(true_envelope - predicted_envelope).mean(axis=1) / true_envelope.max(axis=1)
