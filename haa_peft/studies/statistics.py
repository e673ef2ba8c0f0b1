"""Is one row of a study better than another? Paired bootstrap over positions and seeds.

Errors at the positions of one room, and of several seeds at one position, are not independent, so positions and seeds
are resampled each as a whole: the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1(2), 2007) with percentile
intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Few seeds or positions make such
intervals somewhat too short: of n values it sees (n - 1) / n of the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from haa_peft.studies.results import RunResult, configurations, mean_defined

RESAMPLES = 4000
FEWEST_POSITIONS = 5
"""With fewer positions in all there is no interval and no verdict."""
JND = {"edt_s": 0.05, "c50_db": 1.0, "t60_percent": 5.0, "t60_30_percent": 5.0}
"""Just-noticeable differences of ISO 3382-1:2009, table A.1: 5 % of EDT and 1 dB of C80, used for T60 and C50 too."""


@dataclass(frozen=True)
class Difference:
    """Mean error of a row A minus that of a row B, where both are defined.

    Attributes
    ----------
    mean_a, mean_b, difference : in the metric's unit, with the 95 % interval ``low`` to ``high`` of the difference.
    relative, relative_low, relative_high : (A - B) / B.
    jnd : the difference in just-noticeable differences, NaN for metrics without one.
    verdict : "better" (A's error is smaller), "worse", "no difference", or "undefined" without enough positions.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    jnd: float
    verdict: str


NAN = float("nan")
UNDEFINED = Difference(NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, "undefined")


def difference(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    jnd: Sequence[np.ndarray] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean error of A minus that of B, averaged over configurations, with a 95 % interval.

    A resample draws the seeds with replacement, the same for all configurations, and independently the positions of
    each configuration; an error counts as often as its seed times as often as its position was drawn.

    Parameters
    ----------
    a, b : per configuration errors (seeds, positions), NaN where undefined or not tested; only pairs count.
    jnd : per configuration what is just noticeable (seeds, positions), in the unit of the errors.
    """
    given = [np.broadcast_to(np.nan, x.shape) for x in a] if jnd is None else jnd
    pairs = [(x, y, j, np.isfinite(x) & np.isfinite(y)) for x, y, j in zip(a, b, given, strict=True)]
    pairs = [pair for pair in pairs if pair[3].any()]
    if not pairs:
        return UNDEFINED
    mean_a, mean_b, mean_difference, mean_jnd = (
        float(np.mean([mean_defined(values(*pair)) for pair in pairs]))
        for values in (
            lambda x, y, j, both: x[both],
            lambda x, y, j, both: y[both],
            lambda x, y, j, both: (x - y)[both],
            lambda x, y, j, both: ((x - y) / j)[both],
        )
    )
    seeds = np.any([both.any(axis=1) for *_, both in pairs], axis=0)
    seed_weights = _weights(int(seeds.sum()), resamples, seed, 0)
    drawn, drawn_b, positions = [], [], 0
    for index, (x, y, _, both) in enumerate(pairs, start=1):
        tested = both.any(axis=0)
        positions += int(tested.sum())
        cells = np.ix_(seeds, tested)
        parts = [np.where(both, x - y, 0)[cells], np.where(both, y, 0)[cells], both[cells].astype(float)]
        position_weights = _weights(int(tested.sum()), resamples, seed, index)
        sums = [((position_weights @ part.T) * seed_weights).sum(axis=1) for part in parts]
        with np.errstate(invalid="ignore"):  # no pair drawn: such a resample is left out
            drawn.append(sums[0] / sums[2])
            drawn_b.append(sums[1] / sums[2])
    resampled, resampled_b = np.mean(drawn, axis=0), np.mean(drawn_b, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = _interval(resampled)
        relative_low, relative_high = _interval(resampled / resampled_b)
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference"
    if positions < FEWEST_POSITIONS:
        low = high = relative_low = relative_high = NAN
        verdict = "undefined"
    relative = mean_difference / mean_b if mean_b else NAN
    return Difference(
        mean_a, mean_b, mean_difference, low, high, relative, relative_low, relative_high, mean_jnd, verdict
    )


def compare_runs(results: Sequence[RunResult], a: str, b: str, metric: str, **options: int) -> Difference:
    """:func:`difference` of two runs over the configurations that both were tested in.

    ``results`` are of one number of measurements and without transfers, so that a run has one result for each
    configuration and seed; ``options`` are ``resamples`` and ``seed``.
    """
    tables: list[dict[str, np.ndarray]] = []
    seeds = sorted({r.seed for r in results})
    for name in configurations(results):
        here = [r for r in results if r.name == name and r.run in (a, b)]
        if {r.run for r in here} != {a, b}:
            continue
        positions = np.unique(np.concatenate([r.positions for r in here]))
        table = {part: np.full((len(seeds), len(positions)), np.nan) for part in ("a", "b", "jnd")}
        for r in here:
            cells = seeds.index(r.seed), np.searchsorted(positions, r.positions)
            table["a" if r.run == a else "b"][cells] = r.errors[metric]
            table["jnd"][cells] = just_noticeable(r, metric)
        tables.append(table)
    return difference([t["a"] for t in tables], [t["b"] for t in tables], [t["jnd"] for t in tables], **options)


def just_noticeable(result: RunResult, metric: str) -> np.ndarray:
    """What is just noticeable at each position, (N,) in the unit of the metric's errors; NaN for other metrics."""
    size = JND.get(metric, NAN)
    return size * result.truth["edt_s"] if metric == "edt_s" else np.full(len(result.positions), size)


@lru_cache(maxsize=16)
def _weights(count: int, resamples: int, seed: int, index: int) -> np.ndarray:
    """How often each of ``count`` is drawn, (resamples, count)."""
    rng = np.random.default_rng((seed, index))
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return NAN, NAN
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
