"""Whether an adapter is better than the backbone and the baselines, as far as the tested positions can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

JUDGED = {"edt_s": "EDT", "c50_db": "C50", "t60_percent": "T60"}
BASELINES = {
    "backbone": "the backbone",
    "backbone, nothing borrowed": "the backbone with nothing borrowed",
    "nearest": "nearest neighbour",
    "energy": "the energy average",
}
CONFIDENCE = 0.95


class Paired(NamedTuple):
    """Errors of an adapter against those of a baseline at the same ``positions``.

    ``ratio`` is that of the mean errors, ``low`` to ``high`` its 95 % interval from the paired differences (the
    baseline's mean taken as it is), ``p`` Student's two-sided probability of such a difference by chance; they are NaN
    where two positions are not left. ``result`` is "better", "worse", "undecided", or "equal" if no error differs.
    """

    positions: int
    ratio: float
    low: float
    high: float
    p: float
    result: str


def paired(errors: np.ndarray, baseline: np.ndarray) -> Paired:
    """Student's paired test of errors (N,), NaN where undefined; positions count where both are defined.

    Neighbouring positions have errors in common, which the test takes for independent, and every metric is tested by
    itself: a lone result near p = 0.05 is weak.
    """
    both = np.isfinite(errors) & np.isfinite(baseline)
    apart, mean = (errors - baseline)[both], float(baseline[both].mean()) if both.any() else 0.0
    count = len(apart)
    if not mean:
        return Paired(count, np.nan, np.nan, np.nan, np.nan, "undecided")
    ratio = 1 + float(apart.mean()) / mean
    if not apart.any():
        return Paired(count, 1.0, 1.0, 1.0, 1.0, "equal")
    if count < 2:
        return Paired(count, ratio, np.nan, np.nan, np.nan, "undecided")
    error = float(apart.std(ddof=1)) / np.sqrt(count)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error / mean
    p = 2 * float(stdtr(count - 1, -abs(apart.mean()) / error)) if error else 0.0
    result = "undecided" if p >= 1 - CONFIDENCE else "better" if ratio < 1 else "worse"
    return Paired(count, ratio, ratio - half, ratio + half, p, result)


def verdict(report: Mapping[str, Any], name: str, unchanged: str | None = None) -> dict[str, Any]:
    """How the adapter ``name`` of a report (:func:`~haa_peft.evaluation.compare.compare`) does, as JSON.

    ``unchanged`` names what the adapter is unchanged from, if validation undid its training. The result has ``line``,
    one line to print, and ``against`` per baseline and metric the fields of :class:`Paired`.
    """
    rows = {row["predictor"]: row["per_position"] for row in report["rows"]}
    against = {
        baseline: {m: paired(*(np.array(rows[one][m], dtype=float) for one in (name, baseline))) for m in JUDGED}
        for baseline in BASELINES
        if baseline in rows
    }
    parts = [] if unchanged is None else [f"the adapter is unchanged from {unchanged}"]
    said = {
        BASELINES[baseline]: _sentence(BASELINES[baseline], found)
        for baseline, found in against.items()
        if not (baseline == "backbone" and unchanged is not None and _equal(found))
    }
    parts += filter(None, said.values())
    if open_ones := [label for label, sentence in said.items() if not sentence]:
        parts.append(f"these positions cannot tell it from {_list(open_ones)}")
    return {
        "line": f"verdict at {report['positions']} {report['split']} positions: {'; '.join(parts)}",
        "confidence": CONFIDENCE,
        "unchanged": unchanged,
        "against": {
            baseline: {metric: one._asdict() for metric, one in found.items()} for baseline, found in against.items()
        },
    }


def _equal(found: Mapping[str, Paired]) -> bool:
    return all(one.result == "equal" for one in found.values() if one.positions)


def _sentence(label: str, found: Mapping[str, Paired]) -> str:
    """Such as ``better than the backbone in EDT (-12 %) and C50 (-15 %)``; empty where nothing can be told."""
    if _equal(found):
        return f"the same as {label}"
    better, worse = (
        [f"{JUDGED[m]} ({_percent(one.ratio)})" for m, one in found.items() if one.result == result]
        for result in ("better", "worse")
    )
    if not better and not worse:
        return ""
    if not worse:
        return f"better than {label} in {_list(better)}"
    if not better:
        aside = ", which is better here," if label == BASELINES["nearest"] else ""
        return f"worse than {label}{aside} in {_list(worse)}"
    return f"better than {label} in {_list(better)} but worse in {_list(worse)}"


def _list(items: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _percent(ratio: float) -> str:
    """A ratio of errors as a change, with a decimal where it is small."""
    change = 100 * (ratio - 1)
    return f"{change:+.0f} %" if abs(change) >= 1 else f"{change:+.1f} %"
