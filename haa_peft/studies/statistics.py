"""Is one row of a study better than another? Paired bootstrap over positions, draws and seeds.

Errors at the positions of one room, and of several seeds at one position, are not independent, so positions and draws
of training positions are resampled each as a whole: the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1(2),
2007) with percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Seeds that
share a draw differ in training alone, and are resampled within it. Few draws, seeds or positions make such
intervals somewhat too short: of n values it sees (n - 1) / n of the variance.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from haa_peft.studies.results import RunResult, mean_defined

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
    places: Sequence[Sequence[Hashable]] | None = None,
    draws: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean error of A minus that of B, averaged over configurations, with a 95 % interval.

    A resample takes the draws with replacement, and within each its seeds, the same for all configurations, and
    independently the positions; an error counts as often as its seed times as often as its position was drawn.
    Configurations that were measured at the same places share their draw of positions.

    Parameters
    ----------
    a, b : per configuration errors (S, N) of seeds and positions, NaN where undefined or not tested; only pairs count.
    jnd : per configuration what is just noticeable, (S, N) in the unit of the errors.
    places : per configuration and position what place of which room it is; all are different unless given.
    draws : which draw of training positions each seed has; all are different unless given.
    resamples, seed : how many, and of their draws.
    """
    given = [np.broadcast_to(np.nan, x.shape) for x in a] if jnd is None else jnd
    where = [[(i, p) for p in range(x.shape[1])] for i, x in enumerate(a)] if places is None else places
    every = [(x, y, j, np.isfinite(x) & np.isfinite(y)) for x, y, j in zip(a, b, given, strict=True)]
    where = [here for here, pair in zip(where, every, strict=True) if pair[3].any()]
    pairs = [pair for pair in every if pair[3].any()]
    if not pairs:
        return UNDEFINED
    mean_a, mean_b, mean_difference, mean_jnd = np.mean([_means(*pair) for pair in pairs], axis=0).tolist()
    seeds = np.any([both.any(axis=1) for *_, both in pairs], axis=0)
    labels = [label for label, used in zip(draws or range(len(seeds)), seeds, strict=True) if used]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    seed_weights = _seed_weights(tuple(numbers[label] for label in labels), resamples, seed)
    tested = [[place for place, used in zip(here, both.any(axis=0), strict=True) if used]
              for here, (*_, both) in zip(where, pairs, strict=True)]  # fmt: skip
    groups = place_groups(tested)
    drawn = []
    for used, (x, y, _, both) in zip(tested, pairs, strict=True):
        index, group = next((i, group) for i, group in enumerate(groups, start=1) if used[0] in group)
        position_weights = _weights(len(group), resamples, seed, index)
        columns = [group[place] for place in used]
        drawn.append(_resampled(x[seeds], y[seeds], both[seeds], columns, position_weights, seed_weights))
    resampled, resampled_b = np.mean(drawn, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = _interval(resampled)
        relative_low, relative_high = _interval(resampled / resampled_b)
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference"
    if sum(map(len, groups)) < FEWEST_POSITIONS:
        low = high = relative_low = relative_high = NAN
        verdict = "undefined"
    relative = mean_difference / mean_b if mean_b else NAN
    return Difference(
        mean_a, mean_b, mean_difference, low, high, relative, relative_low, relative_high, mean_jnd, verdict
    )


def _means(x: np.ndarray, y: np.ndarray, jnd: np.ndarray, both: np.ndarray) -> tuple[float, ...]:
    """Means of A, of B, of A minus B, and of that in just-noticeable differences, where both are defined."""
    x, y = x[both], y[both]
    return tuple(mean_defined(values) for values in (x, y, x - y, (x - y) / jnd[both]))


def _resampled(
    x: np.ndarray,
    y: np.ndarray,
    both: np.ndarray,
    columns: Sequence[int],
    position_weights: np.ndarray,
    seed_weights: np.ndarray,
) -> np.ndarray:
    """Means of A minus B and of B in every resample, (2, R); NaN where no pair was drawn.

    Errors (S, N) of A and B count where ``both``; the M tested positions are ``columns`` of the weights (R, G), and
    seeds have weights (R, S).
    """
    parts = np.zeros((3, len(x), position_weights.shape[1]))
    tested = both.any(axis=0)
    parts[:, :, columns] = np.stack([np.where(both, x - y, 0), np.where(both, y, 0), both])[:, :, tested]
    sums = (position_weights @ parts.reshape(-1, parts.shape[2]).T).reshape(-1, 3, len(x))
    difference, b, count = (sums * seed_weights[:, None]).sum(axis=2).T
    with np.errstate(invalid="ignore"):
        return np.stack([difference / count, b / count])


def place_groups(configurations: Sequence[Sequence[Hashable]]) -> list[dict[Hashable, int]]:
    """Places that are drawn together: those of configurations that have any in common, numbered."""
    groups: list[dict[Hashable, int]] = []
    for places in configurations:
        touching = [group for group in groups if any(place in group for place in places)]
        union = dict.fromkeys([place for group in touching for place in group] + list(places), 0)
        groups = [group for group in groups if group not in touching]
        groups.append({place: number for number, place in enumerate(union)})
    return groups


def compare_runs(results: Sequence[RunResult], a: str, b: str, metric: str, **options: int) -> Difference:
    """:func:`difference` of two runs over the configurations that both were tested in.

    Parameters
    ----------
    results : of one number of measurements and without transfers, so that a run has one result for each configuration
        and seed (:func:`~haa_peft.studies.results.for_every_seed`).
    a, b : the runs.
    metric : whose errors.
    **options : ``resamples`` and ``seed``.
    """
    tables: list[dict[str, np.ndarray]] = []
    places: list[list[Hashable]] = []
    draws: dict[int, list[Hashable]] = {seed: [] for seed in sorted({r.seed for r in results})}
    seeds = list(draws)
    by_name: dict[str, list[RunResult]] = {}
    for r in results:
        if r.run in (a, b):
            by_name.setdefault(r.name, []).append(r)
    for name, here in sorted(by_name.items()):
        if {r.run for r in here} != {a, b}:
            continue
        positions = np.unique(np.concatenate([r.positions for r in here]))
        table = {part: np.full((len(seeds), len(positions)), np.nan) for part in ("a", "b", "jnd")}
        for r in here:
            cells = seeds.index(r.seed), np.searchsorted(positions, r.positions)
            table["a" if r.run == a else "b"][cells] = r.errors[metric]
            table["jnd"][cells] = just_noticeable(r, metric)
        for seed, draw in {r.seed: r.draw for r in here}.items():
            draws[seed].append((name, draw))
        tables.append(table)
        where = {position: place for r in here for position, place in r.places.items()}
        places.append([where[position] for position in positions.tolist()])
    errors_a, errors_b, jnd = ([t[part] for t in tables] for part in ("a", "b", "jnd"))
    return difference(errors_a, errors_b, jnd, places, [tuple(drawn) for drawn in draws.values()], **options)


def just_noticeable(result: RunResult, metric: str) -> np.ndarray:
    """What is just noticeable at each position, (N,) in the unit of the metric's errors; NaN for other metrics."""
    size = JND.get(metric, NAN)
    return size * result.truth["edt_s"] if metric == "edt_s" else np.full(len(result.positions), size)


@lru_cache(maxsize=32)
def _weights(count: int, resamples: int, seed: int, index: int) -> np.ndarray:
    """How often each of ``count`` is drawn, (resamples, count)."""
    rng = np.random.default_rng((seed, index))
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


@lru_cache(maxsize=32)
def _seed_weights(draws: tuple[int, ...], resamples: int, seed: int) -> np.ndarray:
    """How often each seed counts, (resamples, seeds), given the number of its draw."""
    if max(draws) == 0:
        return _weights(len(draws), resamples, seed, 0)
    times = _weights(max(draws) + 1, resamples, seed, 0).astype(int)
    weights = np.empty((resamples, len(draws)))
    rng = np.random.default_rng((seed, 0, 1))
    for number in range(max(draws) + 1):
        members = np.flatnonzero(np.array(draws) == number)
        shares = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(times[:, number] * len(members), shares)
    return weights


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return NAN, NAN
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)
