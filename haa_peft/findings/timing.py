"""What is wrong with when RIRs begin: latency, units, axes, order, the receiver's place, single positions, polarity."""

from __future__ import annotations

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.findings.arrival import BEFORE_S, Arrivals, Explanation, elsewhere, explain
from haa_peft.findings.finding import ERROR, NOTE, Finding, named
from haa_peft.geometry.panorama import render_depth
from haa_peft.geometry.surfaces import Surfaces

LATENCY_ERROR_S, LATENCY_NOTE_S = 4e-4, 2e-4
"""Seconds: 14 cm and 7 cm of sound."""
MISPLACED_M, MISPLACED_ERROR_M = 0.25, 0.5
"""Metres that a single position's sound may come early or late."""
MOST_HEARD = 0.7
"""Share of RIRs that must begin on time before single ones are called misplaced."""
SCATTERED_S, SCATTERED = 1.5e-4, 0.3
"""Seconds, and share of a latency, of spread from which on onsets have none in common."""
NEAR_RATES = (44.1 / 48, 48 / 44.1)
SLOPE_ERRORS, LEAST_SPREAD_M = 6.0, 0.5
"""Standard errors that onsets must grow otherwise with distance, and metres that distances must span."""
MIRRORED = 0.3
"""Correlation of a spectrum's fine structure with its mirror image, from which on two channels are interleaved."""
OPPOSITE, CLEARLY = 0.7, 0.25
"""Correlation with the others' negative, from which on a direct sound is inverted; and how much higher it is."""


def check_timing(
    arrivals: Arrivals, rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, surfaces: Surfaces | None
) -> tuple[list[Finding], np.ndarray]:
    """What is wrong with when RIRs (N, T) begin, and when direct sound comes (N,) in seconds by what explains it.

    Parameters
    ----------
    arrivals : of the RIRs.
    rirs : (N, T) as measured.
    positions, receiver : (N, 3) and (3,) m.
    surfaces : of the room, where they are known.
    """
    rate = arrivals.rate
    best = _near_rate(arrivals, explain(arrivals, positions, receiver))
    best = elsewhere(arrivals, best, positions, receiver)
    expected = best.distances / SPEED_OF_SOUND + best.lag
    if best.kind == "unexplained":
        return _unexplained(arrivals, best), arrivals.onset
    lag, spread, count = _lag(arrivals, best)
    found = [] if best.kind in ("stated", "latency") else [_fault(best, rirs, receiver)]
    if best.kind in ("stated", "latency") and abs(lag) > max(LATENCY_NOTE_S, 3 * spread / np.sqrt(max(count, 1))):
        found.append(_latency(lag, spread, count, rate))
    if best.kind in ("stated", "latency", "units", "rate", "axes", "order"):
        found += _misplaced(arrivals, best, positions, receiver, surfaces)
    return found, expected if best.kind not in ("stated", "latency") else best.distances / SPEED_OF_SOUND + lag


def _near_rate(arrivals: Arrivals, best: Explanation) -> Explanation:
    """The explanation, or one by a rate that differs by 9 % alone, which shows in how onsets grow with distance."""
    from scipy.stats import theilslopes

    late = arrivals.onset - best.distances / SPEED_OF_SOUND
    near = np.abs(late - np.median(late)) < 2 * BEFORE_S
    if (
        best.kind not in ("stated", "latency")
        or near.mean() < MOST_HEARD
        or np.ptp(best.distances[near]) < LEAST_SPREAD_M
    ):
        return best
    metres, travelled = best.distances[near], arrivals.onset[near] * SPEED_OF_SOUND
    slope = float(theilslopes(travelled, metres)[0])  # a few may be hidden
    off = travelled - slope * metres
    usual = 1.48 * float(np.median(np.abs(off - np.median(off))))
    error = max(usual, SPEED_OF_SOUND / arrivals.rate) / (metres.std() * np.sqrt(near.sum()))
    factor = min(NEAR_RATES, key=lambda one: abs(one - slope))
    if abs(slope - factor) > 0.02 or abs(slope - 1) < SLOPE_ERRORS * error:
        return best
    return Explanation("rate", f"{factor:g}", best.distances * factor, 0.0, float(near.mean()), factor)


def _lag(arrivals: Arrivals, best: Explanation) -> tuple[float, float, int]:
    """Median and spread in seconds of what the onsets come late, over those near the explanation, and their number."""
    late = arrivals.onset - best.distances / SPEED_OF_SOUND
    near = np.abs(late - best.lag) < BEFORE_S
    if near.sum() < 2:
        return best.lag, 0.0, int(near.sum())
    middle = float(np.median(late[near]))
    return middle, 1.48 * float(np.median(np.abs(late[near] - middle))), int(near.sum())


def _unexplained(arrivals: Arrivals, best: Explanation) -> list[Finding]:
    """Onsets that are clear and follow no distances."""
    clear = arrivals.hit(arrivals.onset * SPEED_OF_SOUND, 0.0, first=True)
    if clear.mean() < 0.5:
        return []
    off = (arrivals.onset * SPEED_OF_SOUND - best.distances)[clear]
    spread = float(np.subtract(*np.percentile(off, [84, 16])) / 2)
    text = (
        f"{best.share:.0%} of the RIRs begin at their distance / 343 m/s; others are off by {np.median(off):+.2f} m "
        f"with a spread of {spread:.2f} m: each has a latency of its own, or positions and RIRs do not belong together"
    )
    cure = "give every RIR its own position and the same clock"
    return [Finding("delays", ERROR, text, cure, figures={"spread_m": spread})]


def _latency(lag: float, spread: float, count: int, rate: int) -> Finding:
    samples, when = lag * rate, "after" if lag > 0 else "before"
    text = (
        f"sound comes {1000 * abs(lag):.2f} ms ({samples:+.2f} samples) {when} distance / 343 m/s (spread "
        f"{1000 * spread:.2f} ms over {count} RIRs)"
    )
    severity = ERROR if abs(lag) > LATENCY_ERROR_S else NOTE
    figures = {"seconds": lag, "samples": samples, "spread_s": spread}
    if spread > max(SCATTERED_S, SCATTERED * abs(lag)):
        cure = "measure positions and receiver again; no latency in common explains it"
        return Finding("delays", severity, text, cure, figures=figures)
    return Finding("latency", severity, text, f"take {samples:.2f} samples off every RIR", figures=figures)


def _fault(best: Explanation, rirs: np.ndarray, receiver: np.ndarray) -> Finding:
    """What an explanation other than a latency means."""
    figures, kind, factor = {"share": best.share, "factor": best.factor}, best.kind, best.factor
    if kind == "units":
        unit = best.detail.partition(",")[0]
        figures["receiver"] = float(unit == best.detail)
        text, cure = f"positions were in {best.detail}", f"multiply lengths by {factor:g} (import: --units {unit})"
    elif kind == "rate" and factor == 2 and _interleaved(rirs):
        kind = "stereo"
        text = "time ran at half its speed, and spectra are their own mirror images: two channels, sample by sample"
        cure = "take every other sample"
    elif kind == "rate":
        text = f"the sample rate was {factor:g} times what is stated, or distances {1 / factor:.3g} times"
        cure = "state the rate that was measured at"
    elif kind == "cut":
        text = f"all were as far away ({1000 * best.lag:.2f} ms): the delays have been cut off"
        cure = "put distance / 343 m/s before each RIR"
    elif kind == "order":
        text, cure = "positions were in reverse order", "give them in the RIRs' order"
    elif kind == "axes":
        text, cure = f"positions had the axes {best.detail} and the receiver x y z", "give both in the same axes"
    else:
        moved = np.array([float(x) for x in best.detail.split(", ")])
        figures["metres"] = float(np.linalg.norm(moved - receiver))
        text = f"the receiver was at ({best.detail}), {figures['metres']:.2f} m from where it is stated"
        cure = "measure its place again"
    return Finding(kind, ERROR, f"{best.share:.0%} of the RIRs begin as if {text}", cure, figures=figures)


def _interleaved(rirs: np.ndarray) -> bool:
    """Whether the fine structure of spectra is the same below and above a quarter of the sample rate."""
    length = rirs.shape[1] // 2 * 2
    spectrum = np.log(np.abs(np.fft.rfft(rirs[:32, :length].astype(np.float64))) + 1e-300)
    half = spectrum.shape[1] // 2
    low, high = spectrum[:, 1:half], spectrum[:, ::-1][:, 1:half]
    fine = [part - np.apply_along_axis(np.convolve, 1, part, np.ones(31) / 31, "same") for part in (low, high)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*fine, strict=True)])) > MIRRORED


def _misplaced(
    arrivals: Arrivals, best: Explanation, positions: np.ndarray, receiver: np.ndarray, surfaces: Surfaces | None
) -> list[Finding]:
    """Positions whose sound begins clearly, at another time than all others'."""
    hit = arrivals.hit(best.distances, best.lag, first=True)
    if hit.mean() < MOST_HEARD:
        return []
    late = (arrivals.onset - best.lag) * SPEED_OF_SOUND - best.distances
    clear = arrivals.hit(arrivals.onset * SPEED_OF_SOUND, 0.0, first=True)
    spread = 1.48 * float(np.median(np.abs(late[hit])))
    rows = np.flatnonzero(~hit & clear & (np.abs(late) > max(MISPLACED_M, 5 * spread)))
    if surfaces is not None:  # what is hidden comes late
        rows = rows[(late[rows] < 0) | in_sight(surfaces, receiver, positions[rows])]
    if not len(rows):
        return []
    worst = float(late[rows][np.abs(late[rows]).argmax()])
    wrong = late[rows].min() if surfaces is None else -abs(worst)  # what is hidden may come late, never early
    severity = ERROR if wrong < -MISPLACED_ERROR_M else NOTE
    parts = [
        f"{named(some, 'position')}: sound comes {'up to ' if len(some) > 1 else ''}{np.abs(late[some]).max():.2f} m "
        f"{when} than from there"
        for some, when in ((rows[late[rows] < 0], "earlier"), (rows[late[rows] > 0], "later"))
        if len(some)
    ]
    text = f"{', '.join(parts)} (spread of the others {spread:.2f} m)"
    cure = "measure these places again, or remove them"
    cure += "" if wrong < 0 else "; something in the way would do the same"
    return [Finding("position", severity, text, cure, tuple(rows.tolist()), {"metres": worst})]


def in_sight(surfaces: Surfaces, receiver: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Which positions (N, 3) m are seen from the receiver (3,), with a margin of 5 % of their distance and 25 cm."""
    distance = np.linalg.norm(positions - receiver, axis=1)
    depth = render_depth(surfaces, receiver, (positions - receiver) / distance[:, None])
    return depth > 0.95 * distance - 0.25


def check_polarity(rirs: np.ndarray, rate: int, arrival: np.ndarray) -> list[Finding]:
    """RIRs (N, T) whose direct sound, at ``arrival`` (N,) in seconds, is the others' with the other sign."""
    reach, half = max(1, round(1e-4 * rate)), round(1e-3 * rate)
    padded = np.pad(rirs.astype(np.float64), ((0, 0), (2 * half, 2 * half)))
    start = np.rint(arrival * rate).astype(int).clip(0, rirs.shape[1] - 1) + 2 * half
    windows = np.stack([row[at - half : at + half] for row, at in zip(padded, start, strict=True)])
    windows /= np.maximum(np.linalg.norm(windows, axis=1, keepdims=True), 1e-300)
    template = windows[int(np.argmax(np.abs(windows @ windows.T).sum(axis=1)))]
    for _ in range(3):
        alike, opposite = _correlations(windows, template, reach)
        signed = windows * np.where(alike >= opposite, 1, -1)[:, None]
        template = np.median(signed, axis=0)
    alike, opposite = _correlations(windows, template, reach)
    if np.median(alike - opposite) < 0:
        alike, opposite = opposite, alike
    rows = np.flatnonzero((opposite > OPPOSITE) & (opposite > alike + CLEARLY))
    if not len(rows) or len(rows) > 0.4 * len(rirs) or (alike > OPPOSITE).mean() < 0.5:
        return []
    worst = float(-opposite[rows].mean())
    text = f"{named(rows)}: direct sound is the others' with the other sign (correlation {worst:.2f})"
    return [Finding("polarity", NOTE, text, "turn their sign", tuple(rows.tolist()), {"correlation": worst})]


def _correlations(windows: np.ndarray, template: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest correlations (N,) of windows (N, W) with a template (W,) and its negative, within some samples."""
    template = template / max(np.linalg.norm(template), 1e-300)
    each = np.stack([windows @ np.roll(template, lag) for lag in range(-reach, reach + 1)])
    return each.max(axis=0), -each.min(axis=0)
