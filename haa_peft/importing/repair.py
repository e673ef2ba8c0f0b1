"""Mending what measurements themselves say how to mend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

from haa_peft.findings.finding import Finding, named


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


def repaired(
    rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, findings: Sequence[Finding], which: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, list[str]]:
    """RIRs (N, T), positions (N, 3) and receiver (3,) with what is found mended, as far as they say how.

    Parameters
    ----------
    rirs, positions, receiver : as read.
    findings : of :func:`haa_peft.findings.check_measurements`.
    which : kinds that may be mended, of ``REPAIRS``.

    Returns
    -------
    These three; what lengths that belong to the receiver's coordinates were multiplied with; and lines.
    """
    said, scale = [], 1.0
    for one in findings:
        if one.kind not in which:
            continue
        if one.kind == "latency":
            rirs = shifted(rirs, np.full(len(rirs), -one.figures["samples"]))
            said.append(f"repaired latency: {one.figures['samples']:.2f} samples taken off every RIR")
        elif one.kind == "polarity":
            rirs = rirs.copy()
            rirs[list(one.rows)] *= -1
            said.append(f"repaired polarity: the sign of {named(one.rows)} turned")
        elif one.kind == "units":
            positions = positions * one.figures["factor"]
            if one.figures["receiver"]:
                receiver, scale = receiver * one.figures["factor"], one.figures["factor"]
            said.append(f"repaired units: lengths multiplied by {one.figures['factor']:g}")
    return rirs, positions, receiver, scale, said
