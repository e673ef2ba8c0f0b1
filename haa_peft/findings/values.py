"""Whether numbers can be sound pressure: silent, constant, squared, in decibels, reversed, clipped, twice the same."""

from __future__ import annotations

import numpy as np

from haa_peft.findings.finding import ERROR, NOTE, Finding, named

FULL_SCALE_TIMES = 3
"""Samples at the largest magnitude of one RIR, from which on it is clipped."""
OFFSET_ERROR, OFFSET_NOTE = 1.0, 0.05
"""Energy of the mean over the energy of what is left without it."""
ONE_SIDED = 0.99
"""Share of samples of one sign; sound has as many of both."""
LATE_CENTRE = 0.65
"""Share of the length that half of the energy's moment lies behind in an RIR that runs backwards."""
SAME = 0.9999
"""Correlation of two RIRs that are one."""
COMPARED = 8192
"""Samples of them that are compared."""
LATE_S, LEAST_LATE_S = 0.03, 0.02
"""Seconds after the direct sound that the late field begins, and that it must last."""
LOUD_ERROR, LOUD_NOTE = 20.0, 12.0
"""Decibels from the median level, and at least six times the usual deviation."""


def check_values(rirs: np.ndarray) -> list[Finding]:
    """What is wrong with the numbers of RIRs (N, T) by themselves; where they are no sound at all, that alone."""
    for check in (_silent, _decibels, _one_sided, _offset, _reversed):
        found = check(rirs)
        if found is not None and found.severity == ERROR:
            return [found]
    return [one for one in (_offset(rirs), _clipped(rirs), *_alike(rirs)) if one is not None]


def _silent(rirs: np.ndarray) -> Finding | None:
    flat = np.flatnonzero(np.ptp(rirs, axis=1) == 0)
    if not len(flat):
        return None
    values = rirs[flat, 0]
    kind = "silent" if not values.any() else "constant"
    what = "holds zeros alone" if kind == "silent" else f"is {values[0]:g} from beginning to end"
    return Finding(kind, ERROR, f"{named(flat)} {what}", "measure again or remove", tuple(flat.tolist()))


def _decibels(rirs: np.ndarray) -> Finding | None:
    negative = float((rirs < 0).mean())
    lowest, typical = float(rirs.min()), float(np.median(rirs))
    if negative < 0.95 or not -1000 < lowest < -20 or typical > -10 or np.median(np.ptp(rirs, axis=1)) < 10:
        return None
    return Finding("decibels", ERROR, f"{negative:.1%} of the values are negative, {lowest:.0f} to {rirs.max():.0f}: "
                   "levels and no sound pressure", "give the impulse responses themselves",
                   figures={"negative": negative})  # fmt: skip


def _one_sided(rirs: np.ndarray) -> Finding | None:
    sounding = np.abs(rirs) > 0
    positive = float(((rirs > 0).sum(axis=1) / np.maximum(sounding.sum(axis=1), 1)).mean())
    middle = float(np.median(np.abs(np.median(rirs, axis=1)) / np.abs(rirs).max(axis=1)))
    if positive < ONE_SIDED or middle > 0.1:
        return None
    return Finding("squared", ERROR, f"{positive:.1%} of the values are positive, and half of them near 0: squared or "
                   "absolute values", "give the impulse responses themselves",
                   figures={"positive": positive})  # fmt: skip


def _offset(rirs: np.ndarray) -> Finding | None:
    mean = rirs.mean(axis=1, dtype=np.float64)
    left = np.maximum(rirs.var(axis=1, dtype=np.float64), 1e-300)
    share = mean**2 / left
    rows = np.flatnonzero(share > OFFSET_NOTE)
    if not len(rows):
        return None
    worst = float(share.max())
    whole = bool((rirs[:8] == np.rint(rirs[:8])).all())
    kind = "; whole numbers, as of 8-bit files read with their offset" if whole else ""
    return Finding("offset", ERROR if (share > OFFSET_ERROR).mean() > 0.05 else NOTE,
                   f"{named(rows)}: a constant of {mean[rows[0]]:.3g} lies under the sound, "
                   f"{10 * np.log10(worst):.0f} dB of its energy{kind}", "subtract it", tuple(rows.tolist()),
                   {"energy_share": worst})  # fmt: skip


def _reversed(rirs: np.ndarray) -> Finding | None:
    energy = np.square(rirs, dtype=np.float64)
    where = np.arange(rirs.shape[1]) + 0.5
    centre = energy @ where / np.maximum(energy.sum(axis=1), 1e-300) / rirs.shape[1]
    before_peak = centre < (energy.argmax(axis=1) + 1) / rirs.shape[1]  # not so where sound is merely late
    if rirs.shape[1] < 100 or np.median(centre) < LATE_CENTRE or before_peak.mean() < 0.5:
        return None
    return Finding("reversed", ERROR, f"the energy lies {np.median(centre):.0%} of the way to the end: the RIRs run "
                   "backwards in time", "turn them round", figures={"centre": float(np.median(centre))})  # fmt: skip


def _clipped(rirs: np.ndarray) -> Finding | None:
    magnitude = np.abs(rirs)
    peak = magnitude.max(axis=1, keepdims=True)
    count = (magnitude >= peak * (1 - 1e-6)).sum(axis=1)
    rows = np.flatnonzero(count >= FULL_SCALE_TIMES)
    together = np.flatnonzero(peak[:, 0] >= peak.max() * (1 - 1e-6))
    if count[together].sum() >= FULL_SCALE_TIMES and 1 < len(together) < 0.5 * len(rirs):  # several end at one value
        rows = np.union1d(rows, together)
    if not len(rows):
        return None
    return Finding("clipped", ERROR if len(rows) > 0.05 * len(rirs) else NOTE,
                   f"{named(rows)}: up to {count.max()} samples at the largest value ({peak[rows[0], 0]:.3g})",
                   "measure again at a lower level", tuple(rows.tolist()), {"samples": int(count.max())})  # fmt: skip


def _alike(rirs: np.ndarray) -> list[Finding]:
    part = rirs[:, :COMPARED].astype(np.float32)
    part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-30)
    pairs = np.argwhere(np.triu(part @ part.T > SAME, 1))
    if not len(pairs):
        return []
    rows = np.unique(pairs)
    if len(rows) == len(rirs):
        text = (
            "all RIRs are the same one"
            if len(pairs) == len(rirs) * (len(rirs) - 1) // 2
            else "every RIR is there twice"
        )
    else:
        text = " and ".join(str(i) for i in pairs[0]) + f" are the same RIR at two positions ({len(pairs)} such pairs)"
    return [Finding("same", ERROR, text, "remove or measure again one of each", tuple(rows.tolist()),
                    {"pairs": len(pairs)})]  # fmt: skip


def check_levels(rirs: np.ndarray, rate: int, arrival: np.ndarray) -> list[Finding]:
    """RIRs (N, T) whose late field is much louder or weaker than the others'; it is as loud everywhere in a room.

    ``arrival`` (N,) is the direct sound's in seconds. Where an RIR ends within 20 ms of the late field, all counts.
    """
    start = np.rint((arrival + LATE_S) * rate).astype(int)
    if (rirs.shape[1] - start < LEAST_LATE_S * rate).any():
        start = np.zeros_like(start)
    sums = np.cumsum(np.square(rirs[:, ::-1], dtype=np.float64), axis=1)[:, ::-1]
    energy = np.take_along_axis(sums, start[:, None], axis=1)[:, 0] / (rirs.shape[1] - start)
    level = 10 * np.log10(np.maximum(energy, 1e-300))
    off = level - np.median(level)
    usual = max(1.48 * float(np.median(np.abs(off))), 1.0)
    rows = np.flatnonzero((np.abs(off) > LOUD_NOTE) & (np.abs(off) > 6 * usual))
    if not len(rows) or len(rows) > 0.4 * len(rirs):
        return []
    worst = float(off[rows][np.abs(off[rows]).argmax()])
    return [Finding("level", ERROR if abs(worst) > LOUD_ERROR else NOTE,
                    f"{named(rows)}: {worst:+.0f} dB from the others' level (usual deviation {usual:.1f} dB)",
                    "give all the same gain, or remove", tuple(rows.tolist()), {"db": worst})]  # fmt: skip
