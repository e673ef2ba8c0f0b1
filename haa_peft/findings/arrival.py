"""Whether direct sound arrives when positions, receiver and sample rate say, and what explains it if it does not.

Each explanation (a constant latency, another unit, another order of the axes, ...) says when every RIR should begin to
sound. The one that most RIRs bear out, by a rise of energy at that moment, is taken; the simplest that does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import ONSET_DB
from haa_peft.geometry.entry import UNITS

BEFORE_S, AFTER_S = 1e-3, 5e-4
"""Seconds before and after a moment whose energies are compared."""
FLOOR = 1e-5
"""Of the loudest such stretch; quieter ones count as this loud."""
RISE = 1.0
"""Bels from before to after, from which on sound begins."""
TOLERANCE_S = 2.5e-4
"""Seconds that it may begin off the moment: 9 cm."""
LOOKED_AT_S = 0.2
"""Seconds of the RIRs in which they begin, after half of them have."""
LEAST_LAG_S, LAGS_S = -0.02, 0.1
"""The least latency in seconds, and the span around that of the onsets, in which latencies are looked for."""
QUIET, QUIET_AHEAD_S = 0.1, 2e-3
"""Share of the energy until so many seconds later that may have come before sound begins."""
HEARD, MOST = 0.5, 0.9
"""Share of RIRs that must begin when an explanation says; from the other on, what is stated is taken at once."""
BETTER, LOOSE, MISFIT = 0.15, 0.2, 0.2
"""Shares by which an explanation must do better than what is stated, that sound which is not the first counts less, and
that onsets half a millisecond off cost."""
CLOSE = 0.06
"""Misfit, of a seventh of a millisecond, up to which what most RIRs bear out is taken at once."""
COSTS = {"latency": 0.0, "cut": 0.0, "units": 0.01, "order": 0.02, "rate": 0.03, "axes": 0.03}
"""Shares that an explanation must do better the more it is free to choose."""
LEAST_M = 0.2
"""Median distance in metres below which a unit is none."""
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)
ROWS = 64
"""RIRs that explanations are tried on, spread evenly."""
LEAST_RIRS = 6
"""Fewer are explained by another order, other axes or another receiver too easily."""
FARTHEST_RECEIVER, NEAREST_RECEIVER = 5.0, 0.15
"""Metres that a receiver may be off and still be found, and must be off to be looked for."""
CLOSER, CERTAIN = 2.0, 3.0
"""Times that another receiver must bring onsets nearer to their distances, and standard errors that it must change."""
CLEAR = 0.7
"""Share of RIRs that must begin as another receiver says."""


@dataclass(frozen=True)
class Explanation:
    """When direct sound comes.

    Attributes
    ----------
    kind : ``stated``, or the fault's name.
    detail : what exactly, part of a line.
    distances : (N,) m that sound travels by it.
    lag : seconds of latency beyond.
    share : of RIRs that begin then.
    factor : that lengths are multiplied with, for another unit or rate.
    """

    kind: str
    detail: str
    distances: np.ndarray
    lag: float
    share: float
    factor: float = 1.0


class Arrivals:
    """The moments at which RIRs (N, T) at ``rate`` Hz begin to sound.

    ``onset`` (N,) is the first sample within 20 dB of the peak (ISO 3382-1), in seconds.
    """

    def __init__(self, rirs: np.ndarray, rate: int) -> None:
        self.rate = rate
        magnitude = np.abs(rirs)
        self.onset = (magnitude >= 10 ** (ONSET_DB / 20) * magnitude.max(axis=1, keepdims=True)).argmax(axis=1) / rate
        rirs = rirs[:, : round((LOOKED_AT_S + float(np.median(self.onset))) * rate)]
        self.rise = _rises(rirs, rate)
        reach = 2 * round(TOLERANCE_S * rate) + 1
        self.begins = maximum_filter1d(self.rise, reach, axis=1) >= RISE
        self.first = maximum_filter1d((self.rise >= RISE) & _is_quiet_before(rirs, rate), reach, axis=1)

    def lag(self, distances: np.ndarray, rows: np.ndarray) -> float:
        """The lag in seconds at which most of ``rows`` (M,) begin to sound ``distances`` (N,) m after it.

        That of the onsets, median, if nearly as many begin then; sound that comes a little earlier is ringing.
        """
        usual = float(np.median(self.onset - distances / SPEED_OF_SOUND))
        least = max(LEAST_LAG_S, usual - LAGS_S / 2)
        lags = np.arange(round(least * self.rate), round((least + LAGS_S) * self.rate))
        starts = np.rint(distances / SPEED_OF_SOUND * self.rate)
        hits = np.sum([_at(self.first[row], starts[row] + lags) for row in rows], axis=0)
        if hits[np.abs(lags - usual * self.rate).argmin()] >= 0.9 * hits.max() and usual > LEAST_LAG_S:
            return usual
        plateau = np.flatnonzero(hits == hits.max())
        return float(lags[plateau[len(plateau) // 2]] / self.rate)

    def hit(self, distances: np.ndarray, lag: float, *, first: bool = False) -> np.ndarray:
        """Which of all (N,) sound louder ``distances`` (N,) m and a lag in seconds after they started.

        With ``first``, only those where nothing sounded before.
        """
        samples = np.rint((distances / SPEED_OF_SOUND + lag) * self.rate)
        return np.array([
            bool(_at(row, np.array([sample]))[0])
            for row, sample in zip(self.first if first else self.begins, samples, strict=True)
        ])  # fmt: skip

    def misfit(self, distances: np.ndarray, lag: float) -> float:
        """How far onsets are off ``distances`` (N,) m and a lag, median, in half milliseconds times ``MISFIT``."""
        off = self.onset - distances / SPEED_OF_SOUND - lag
        middle = float(np.median(off)) if lag and abs(np.median(off)) < BEFORE_S else 0.0
        return MISFIT * min(1.0, float(np.median(np.abs(off - middle))) / AFTER_S)


def _at(row: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Values of a row (T,) of bool at samples (M,), False outside."""
    inside = (samples >= 0) & (samples < len(row))
    return row[np.where(inside, samples, 0).astype(np.int64)] & inside


def _is_quiet_before(rirs: np.ndarray, rate: int) -> np.ndarray:
    """Where in RIRs (N, T) less than a tenth of the energy until 2 ms later has come."""
    sums = np.cumsum(np.square(rirs, dtype=np.float64), axis=1)
    ahead = round(QUIET_AHEAD_S * rate)
    later = np.concatenate([sums[:, ahead:], np.repeat(sums[:, -1:], min(ahead, sums.shape[1]), axis=1)], axis=1)
    before = np.pad(sums, ((0, 0), (1, 0)))[:, :-1]
    return before <= QUIET * later[:, : sums.shape[1]]


def _rises(rirs: np.ndarray, rate: int) -> np.ndarray:
    """Bels (N, T) by which energy rises from before a moment to after it."""
    before, after = max(2, round(BEFORE_S * rate)), max(1, round(AFTER_S * rate))
    padded = np.pad(rirs.astype(np.float64), ((0, 0), (before, after)))
    sums = np.pad(np.cumsum(padded**2, axis=1), ((0, 0), (1, 0)))
    length = rirs.shape[1]
    first = sums[:, before : before + length]
    early = (first - sums[:, :length]) / before
    late = (sums[:, before + after : before + after + length] - first) / after
    floor = FLOOR * late.max(axis=1, keepdims=True) + 1e-300
    return np.log10(np.maximum(late, floor) / np.maximum(early, floor))


def explain(arrivals: Arrivals, positions: np.ndarray, receiver: np.ndarray) -> Explanation:
    """The explanation that fits when RIRs begin, ``stated`` where that does, ``unexplained`` where none does.

    Parameters
    ----------
    arrivals : of RIRs (N, T).
    positions, receiver : (N, 3) and (3,) m.
    """
    count = len(positions)
    rows = np.unique(np.linspace(0, count - 1, min(count, ROWS)).round().astype(int))
    stated = np.linalg.norm(positions - receiver, axis=1)
    loose = float(arrivals.hit(stated, 0.0)[rows].mean())
    share = max(float(arrivals.hit(stated, 0.0, first=True)[rows].mean()), loose - LOOSE)
    best = here = Explanation("stated", "", stated, 0.0, loose)
    if share >= MOST and arrivals.misfit(stated, 0.0) < CLOSE:
        return here
    score = share + BETTER - arrivals.misfit(stated, 0.0)
    for kind, detail, distances, factor in _explanations(arrivals, positions, receiver):
        if kind == "cut" and loose >= HEARD:
            continue
        if count < LEAST_RIRS and kind in ("order", "axes"):
            continue
        lag = arrivals.lag(distances, rows) if kind in ("latency", "cut") else 0.0
        found = float(arrivals.hit(distances, lag, first=True)[rows].mean())
        value = found - arrivals.misfit(distances, lag) - COSTS[kind]
        if found >= HEARD and value > score:
            best, score = Explanation(kind, detail, distances, lag, found, factor), value
    if best is here and loose < HEARD:
        return Explanation("unexplained", "", stated, 0.0, loose)
    return best


def _explanations(
    arrivals: Arrivals, positions: np.ndarray, receiver: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """Kind, detail, distances (N,) m and factor of everything that is tried, the simplest first."""
    stated = np.linalg.norm(positions - receiver, axis=1)
    yield "latency", "", stated, 1.0
    for unit, metres in UNITS.items():
        if unit != "m" and np.median(stated) * metres > LEAST_M:
            yield "units", unit, stated * metres, metres
            yield "units", f"{unit}, the receiver in m", np.linalg.norm(positions * metres - receiver, axis=1), metres
    for factor in _rate_factors():
        yield "rate", f"{factor:g}", stated * factor, factor
    if np.ptp(stated) > 4 * TOLERANCE_S * SPEED_OF_SOUND:
        yield "cut", "", np.zeros_like(stated), 1.0
    yield "order", "reversed", stated[::-1], 1.0
    for axes in itertools.permutations(range(3)):
        if axes != (0, 1, 2):
            letters = " ".join("xyz"[axis] for axis in axes)
            yield "axes", letters, np.linalg.norm(positions[:, axes] - receiver, axis=1), 1.0
    for axis in range(3):
        sign = np.where(np.arange(3) == axis, -1, 1)
        yield "axes", f"-{'xyz'[axis]}", np.linalg.norm(positions * sign - receiver, axis=1), 1.0


def _rate_factors() -> list[float]:
    """Ratios of usual sample rates, those near 1 last."""
    every = {round(a / b, 4) for a in RATES for b in RATES if a != b and 0.24 < a / b < 4.1}
    return sorted(every, key=lambda factor: (factor not in (0.5, 2.0), -abs(np.log(factor))))


def elsewhere(arrivals: Arrivals, best: Explanation, positions: np.ndarray, receiver: np.ndarray) -> Explanation:
    """An explanation, or that the receiver is elsewhere, where onsets lie much nearer to what that says.

    Parameters
    ----------
    arrivals : of RIRs (N, T).
    best : what explains them so far.
    positions, receiver : (N, 3) and (3,) m.
    """
    count, travelled = len(positions), arrivals.onset * SPEED_OF_SOUND
    if count < LEAST_RIRS:
        return best
    moved = moved_receiver(travelled, positions, receiver)
    distances = np.linalg.norm(positions - moved, axis=1)
    before = _spread(travelled - best.distances)
    after = _spread(travelled - distances) * np.sqrt(count / (count - 4))
    after = max(after, SPEED_OF_SOUND / arrivals.rate / 2)
    change = distances - np.linalg.norm(positions - receiver, axis=1)
    certain = np.linalg.norm(change - change.mean()) > CERTAIN * after  # what a latency cannot do
    share = float(arrivals.hit(distances, 0.0, first=True).mean())
    near = np.linalg.norm(moved - receiver) < NEAREST_RECEIVER
    if near or before < CLOSER * after or not certain or share < CLEAR:
        return best
    return Explanation("receiver", ", ".join(f"{x:.2f}" for x in moved), distances, 0.0, share)


def _spread(metres: np.ndarray) -> float:
    """Standard deviation of (N,) m by the median, which some that are hidden do not change."""
    return 1.48 * float(np.median(np.abs(metres - np.median(metres))))


def moved_receiver(travelled: np.ndarray, positions: np.ndarray, receiver: np.ndarray) -> np.ndarray:
    """The point (3,) m near a receiver whose distances to positions (N, 3) m are most nearly those travelled (N,)."""
    from scipy.optimize import least_squares

    def misfit(point: np.ndarray) -> np.ndarray:
        return np.append(np.linalg.norm(positions - point, axis=1) - travelled, 0.02 * (point - receiver))

    starts = [receiver + step for step in (np.zeros(3), *np.eye(3), *-np.eye(3))]
    found = [least_squares(misfit, start, loss="soft_l1", f_scale=0.05, max_nfev=200) for start in starts]
    best = min(found, key=lambda one: one.cost)
    return best.x if np.linalg.norm(best.x - receiver) <= FARTHEST_RECEIVER else receiver
