"""The shoebox around a receiver, from a dozen measured RIRs and their positions.

Positions and receiver are known, so each of six walls is one number, its offset along an axis, and an offset says when
each measurement's first echo off that wall arrives. Offsets that many measurements support are candidates; boxes of
candidates are ranked by all their echoes up to third order, second-order ones taken from tables of pairs of walls.
Assumed: walls are parallel to the axes, z points up, and the room is at least 2 m high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from haa_peft.geometry.estimate.echoes import EchoEvidence, echo_evidence
from haa_peft.geometry.estimate.telling import AXES, Telling, telling
from haa_peft.geometry.surfaces import Surfaces

WALLS = ("x low", "x high", "y low", "y high", "floor", "ceiling")
FARTHEST = 25.0
"""Metres from the outermost position or receiver that walls are looked for."""
STEP = 0.02
"""Metres between offsets that are tried."""
OUTSIDE = 0.02
"""Metres that the outermost position or receiver is at least from a wall."""
NEARNESS = 2.0
"""Log prior falls by this times log(1 + metres from the outermost position): people measure all over a room."""
CANDIDATES, PAIRS, BOXES = 25, 150, 40
"""Offsets per wall, pairs of opposite walls per axis, and boxes that are kept on the way."""
APART = 0.1
"""Metres between candidates."""
FLOOR_WIDTH, FLOOR_CHANCE = 0.03, 0.5
"""How exactly z = floor is the floor if it is at all, in metres, and the chance that it is."""
TEMPERATURE = 1.0
BLUR = 0.05
"""Metres (standard deviation) of positions that evidence knows nothing of, added to every wall's distribution."""
INTERVAL = 0.9
NEAR, SURE = 0.25, 0.9
"""A wall is confident if this share of its distribution lies within so many metres of the estimate."""
WIDEST = 0.6
"""Metres that the 90 % interval of a confident wall spans at most."""
LEAST_HEIGHT = 2.0
"""Metres from floor to ceiling; lower rooms are taken for impossible."""
SAME = 0.12
"""Metres; paths that differ by less are one echo."""
AGAIN = 0.5
"""Weight of an echo that another wall, which the positions cannot tell from its wall, has already explained."""
SWEEPS = 3
IMPOSSIBLE = 1e3


@dataclass(frozen=True)
class ShoeboxEstimate:
    """A box in room coordinates with what is known of each wall; walls are in the order of ``WALLS``.

    Attributes
    ----------
    offsets : (6,) m, medians of the walls' distributions.
    low, high : (6,) m, ends of the walls' 90 % intervals.
    deviation : (6,) m, the distributions' standard deviations.
    evidence : (6,) log likelihood ratio of the wall's first echoes against chance.
    confident : (6,) whether nine tenths of the distribution lie within 25 cm of the estimate, its interval is at most
        60 cm, and positions can tell the wall from its mirror image.
    telling : which walls the positions can tell, whatever is heard.
    floor : what z was assumed to be the floor's, None for nothing.
    measurements : how many RIRs were used.
    """

    offsets: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: np.ndarray
    evidence: np.ndarray
    confident: np.ndarray
    telling: Telling
    floor: float | None
    measurements: int

    @property
    def origin(self) -> np.ndarray:
        """Lowest corner (3,) m."""
        return self.offsets[0::2]

    @property
    def size(self) -> np.ndarray:
        """(3,) m."""
        return self.offsets[1::2] - self.offsets[0::2]

    @property
    def size_interval(self) -> np.ndarray:
        """(3, 2) m, two walls' intervals taken as independent."""
        below, above = self.offsets - self.low, self.high - self.offsets
        shrunk = np.hypot(above[0::2], below[1::2])
        grown = np.hypot(below[0::2], above[1::2])
        return np.stack([np.maximum(self.size - shrunk, 0), self.size + grown], axis=1)

    @property
    def surfaces(self) -> Surfaces:
        """The six walls in room coordinates."""
        box = Surfaces.shoebox(self.size)
        return Surfaces(box.points + self.origin, box.is_triangle)

    def in_words(self) -> str:
        """One sentence: what was found, how, what was assumed and what not to trust."""
        size = " x ".join(f"{value:.2f}" for value in self.size)
        corner = ", ".join(f"{value:.2f}" for value in self.origin)
        text = (
            f"a shoebox of {size} m with its low corner at ({corner}), from the echoes of {self.measurements} "
            "measurements, assuming walls along the axes and z upwards"
        )
        if self.floor is not None:
            text += f" and probably a floor at z = {self.floor:g}"
        doubtful = [
            f"{name} ({low:.2f} to {high:.2f} m)"
            for name, low, high, sure in zip(WALLS, self.low, self.high, self.confident, strict=True)
            if not sure
        ]
        if doubtful:
            text += f"; uncertain: {', '.join(doubtful)}"
        for axis, ((low, high), (other_low, other_high)) in enumerate(
            zip(self.offsets.reshape(3, 2), self.other_reading.reshape(3, 2), strict=True)
        ):
            if np.isfinite(other_low):
                text += f"; positions share their {AXES[axis]}, so echoes say "
                one = np.allclose([low, high], [other_low, other_high], atol=APART)
                text += (
                    f"a wall at {low:.2f} or at {high:.2f} m, which would be one echo"
                    if one
                    else f"{low:.2f} to {high:.2f} m or, mirrored, {other_low:.2f} to {other_high:.2f} m"
                )
        return text

    @property
    def other_reading(self) -> np.ndarray:
        """Walls (6,) m that would give the same echoes; NaN where the positions tell them apart."""
        return self.telling.other_reading(self.offsets)

    def to_json(self) -> dict:
        """Everything as plain numbers."""
        return {
            "origin": self.origin.tolist(),
            "size": self.size.tolist(),
            "size_interval": self.size_interval.tolist(),
            "walls": {
                name: {
                    "offset": float(self.offsets[i]),
                    "interval": [float(self.low[i]), float(self.high[i])],
                    "deviation": float(self.deviation[i]),
                    "evidence": float(self.evidence[i]),
                    "confident": bool(self.confident[i]),
                    "mirrored": None if np.isnan(self.other_reading[i]) else float(self.other_reading[i]),
                }
                for i, name in enumerate(WALLS)
            },
            "shared_axes": [AXES[axis] for axis in self.telling.shared],
            "floor": self.floor,
            "measurements": self.measurements,
            "account": self.in_words(),
        }


def estimate_shoebox(
    rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, floor: float | None = 0.0
) -> ShoeboxEstimate:
    """The box around the receiver that the echoes of measured RIRs speak for.

    Parameters
    ----------
    rirs : (N, T) at 22 050 Hz with propagation delay, N at least 3 and better 12.
    positions, receiver : (N, 3) and (3,) metres, axes along the walls, z up.
    floor : z of the floor if coordinates begin there, as probable, not certain: echoes may say otherwise. Where a
        position lies below it, or with None, nothing is assumed.
    """
    evidence = echo_evidence(rirs, positions, receiver)
    told = telling(evidence.positions, evidence.receiver)
    points = np.vstack([evidence.positions, evidence.receiver])
    inner = np.stack([points.min(axis=0) - OUTSIDE, points.max(axis=0) + OUTSIDE], axis=1).ravel()
    if floor is not None and inner[4] + OUTSIDE < floor:
        floor = None
    grids = [inner[wall] + (1 if wall % 2 else -1) * np.arange(0, FARTHEST, STEP) for wall in range(6)]
    priors = [_log_prior(grids[wall], floor if wall == 4 else None) for wall in range(6)]
    alone = [first_order(evidence, wall, grids[wall]) for wall in range(6)]
    boxes = _likely_boxes(evidence, grids, [a + p for a, p in zip(alone, priors, strict=True)], told)

    def score(boxes: np.ndarray) -> np.ndarray:
        prior = [np.interp(*_ascending(boxes[:, w], grids[w], priors[w])) for w in range(6)]
        low_room = boxes[:, 5] - boxes[:, 4] < LEAST_HEIGHT
        return box_evidence(evidence, boxes, told) + np.sum(prior, axis=0) - IMPOSSIBLE * low_room

    box = boxes[score(boxes).argmax()]
    for _ in range(SWEEPS):
        before = box.copy()
        for wall in range(6):
            tried = np.repeat(box[None], len(grids[wall]), axis=0)
            tried[:, wall] = grids[wall]
            box[wall] = grids[wall][score(tried).argmax()]
        if (before == box).all():
            break
    columns = []
    for wall in range(6):
        tried = np.repeat(box[None], len(grids[wall]), axis=0)
        tried[:, wall] = grids[wall]
        log_density = score(tried) / TEMPERATURE
        if not told.told[wall // 2]:  # its echoes may be the other wall's, and then nothing is known of it
            log_density = np.logaddexp(log_density - logsumexp(log_density), priors[wall] - logsumexp(priors[wall]))
        columns.append(_summary(grids[wall], log_density))
    offsets, low, high, deviation, near = np.array(columns).T
    return ShoeboxEstimate(
        offsets=offsets,
        low=low,
        high=high,
        deviation=deviation,
        evidence=np.array([first_order(evidence, wall, offsets[wall : wall + 1])[0] for wall in range(6)]),
        confident=(near >= SURE) & (high - low <= WIDEST) & np.repeat(told.told, 2),
        telling=told,
        floor=floor,
        measurements=len(evidence.positions),
    )


def first_order(evidence: EchoEvidence, wall: int, offsets: np.ndarray) -> np.ndarray:
    """Evidence (C,) for a wall at ``offsets`` (C,) m by its first echoes alone."""
    images = np.repeat(evidence.positions[:, None], len(offsets), axis=1)
    images[..., wall // 2] = 2 * offsets - images[..., wall // 2]
    return evidence.of_images(images).sum(axis=0)


def box_evidence(evidence: EchoEvidence, boxes: np.ndarray, told: Telling) -> np.ndarray:
    """Evidence (C,) for boxes (C, 6) m by all their echoes up to third order.

    An echo that comes within ``SAME`` of one with a reflection less says nothing new: off a wall right behind
    positions and receiver all echoes would come twice. One that comes with another wall's, where positions (``told``)
    cannot tell the two walls, says half as much: a wall and its mirror image would both be heard.
    """
    low, high = boxes[:, 0::2], boxes[:, 1::2]
    squared = [
        {times: _along(evidence, axis, low[:, axis], high[:, axis], times) ** 2 for times in range(-3, 4)}
        for axis in range(3)
    ]
    total = np.zeros(len(boxes))
    paths: dict[tuple[int, int, int], np.ndarray] = {}
    for order in range(4):
        for cell in _cells(order):
            paths[cell] = np.sqrt(sum(squared[axis][times] for axis, times in enumerate(cell)))
            if order == 0:
                continue
            found = evidence.of_distances(paths[cell], order)
            for parent in _parents(cell) if order > 1 else ():
                found *= np.abs(paths[cell] - paths[parent]) >= SAME
            for other in _confusable(cell, told) if order == 1 else ():
                found *= np.where(np.abs(paths[cell] - paths[other]) < SAME, AGAIN, 1)
            total += found.sum(axis=0)
    return total


def _cells(order: int) -> list[tuple[int, int, int]]:
    """How often sound is mirrored along x, y and z; negative numbers begin with the low wall."""
    span = range(-order, order + 1)
    return [(i, j, k) for i in span for j in span for k in span if abs(i) + abs(j) + abs(k) == order]


def _parents(cell: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Cells with one reflection less along one axis."""
    parents = []
    for axis, times in enumerate(cell):
        if times:
            nearer = list(cell)
            nearer[axis] -= 1 if times > 0 else -1
            parents.append((nearer[0], nearer[1], nearer[2]))
    return parents


def _confusable(cell: tuple[int, int, int], told: Telling) -> list[tuple[int, int, int]]:
    """First-order cells before this one whose walls the positions cannot tell from its wall."""
    every = _cells(1)
    axis = int(np.flatnonzero(cell)[0])
    if told.told[axis]:
        return []
    return [other for other in every[: every.index(cell)] if not told.told[int(np.flatnonzero(other)[0])]]


def _along(evidence: EchoEvidence, axis: int, low: np.ndarray, high: np.ndarray, times: int) -> np.ndarray:
    """From the receiver to the positions mirrored ``times`` along an axis between walls (C,) m: (N, C) m."""
    points = evidence.positions[:, [axis]]
    if times % 2:
        points = 2 * (high if times > 0 else low) - points
        times -= 1 if times > 0 else -1
    return (points + times * (high - low) - evidence.receiver[axis]).astype(np.float32)


def _likely_boxes(
    evidence: EchoEvidence, grids: list[np.ndarray], scores: list[np.ndarray], told: Telling
) -> np.ndarray:
    """The ``BOXES`` best boxes (C, 6) of candidate offsets, by first- and second-order echoes."""
    kept = [_peaks(score, round(APART / STEP)) for score in scores]
    offsets = [grid[i] for grid, i in zip(grids, kept, strict=True)]
    values = [score[i] for score, i in zip(scores, kept, strict=True)]
    pairs, pair_scores = [], []
    for axis in range(3):
        low, high = (part.ravel() for part in np.meshgrid(*offsets[2 * axis : 2 * axis + 2], indexing="ij"))
        score = np.add.outer(values[2 * axis], values[2 * axis + 1]).ravel()
        if not told.told[axis]:  # a wall and its mirror image are one echo
            weaker = np.minimum.outer(values[2 * axis], values[2 * axis + 1]).ravel()
            score -= (1 - AGAIN) * weaker * (np.abs(low + high - 2 * told.middle[axis]) < SAME / 2)
        along = (evidence.positions - evidence.receiver)[:, None, axis]
        across = np.delete(evidence.positions - evidence.receiver, axis, axis=1)
        for shift in (2 * (high - low), 2 * (low - high)):
            distance = np.sqrt((across**2).sum(axis=1)[:, None] + (along + shift) ** 2)
            score += evidence.of_distances(distance, 2).sum(axis=0)
        if axis == 2:
            score -= IMPOSSIBLE * (high - low < LEAST_HEIGHT)
        best = np.argsort(-score)[:PAIRS]
        pairs.append(np.stack([low[best], high[best]], axis=1))
        pair_scores.append(score[best])
    x, y, z = pair_scores
    total = x[:, None, None] + y[:, None] + z
    total += _corners(evidence, 0, 1, pairs)[:, :, None]
    total += _corners(evidence, 0, 2, pairs)[:, None, :]
    total += _corners(evidence, 1, 2, pairs)
    best = np.argpartition(-total.ravel(), min(BOXES, total.size) - 1)[:BOXES]
    return np.concatenate([pair[i] for pair, i in zip(pairs, np.unravel_index(best, total.shape), strict=True)], axis=1)


def _corners(evidence: EchoEvidence, one: int, other: int, pairs: list[np.ndarray]) -> np.ndarray:
    """Evidence (A, B) of echoes off one wall of each of two axes, for pairs of walls (A, 2) and (B, 2) m."""
    direct = (evidence.positions - evidence.receiver) ** 2
    walls_a, which_a = np.unique(pairs[one], return_inverse=True)
    walls_b, which_b = np.unique(pairs[other], return_inverse=True)
    which_a, which_b = which_a.reshape(-1, 2), which_b.reshape(-1, 2)
    a = _along(evidence, one, walls_a, walls_a, 1)[:, :, None] ** 2
    b = _along(evidence, other, walls_b, walls_b, 1)[:, None, :] ** 2
    height = direct[:, 3 - one - other, None, None]
    path = np.sqrt(height + a + b)
    found = evidence.of_distances(path, 2)
    for parent in (height + a + direct[:, other, None, None], height + direct[:, one, None, None] + b):
        found = np.where(path - np.sqrt(parent) < SAME, 0.0, found)
    table = found.sum(axis=0)
    return sum(table[np.ix_(which_a[:, i], which_b[:, j])] for i in (0, 1) for j in (0, 1))


def _peaks(score: np.ndarray, apart: int) -> np.ndarray:
    """Indices of at most ``CANDIDATES`` highest local maxima, more than ``apart`` steps from each other."""
    edged = np.concatenate([[-np.inf], score, [-np.inf]])
    local = np.flatnonzero((score >= edged[:-2]) & (score >= edged[2:]))
    kept: list[int] = []
    for i in local[np.argsort(-score[local])]:
        if all(abs(i - other) > apart for other in kept):
            kept.append(int(i))
        if len(kept) == CANDIDATES:
            break
    return np.array(kept)


def _log_prior(grid: np.ndarray, floor: float | None) -> np.ndarray:
    """Log prior (C,) of a wall on a grid (C,) m that begins at the outermost position."""
    prior = (1 + np.abs(grid - grid[0])) ** -NEARNESS
    prior /= prior.sum()
    if floor is not None:
        at_floor = np.exp(-0.5 * ((grid - floor) / FLOOR_WIDTH) ** 2)
        if at_floor.sum() > 0:
            prior = (1 - FLOOR_CHANCE) * prior + FLOOR_CHANCE * at_floor / at_floor.sum()
    return np.log(prior / prior.max())


def _ascending(x: np.ndarray, grid: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of ``numpy.interp`` for a grid that may descend."""
    return (x, grid, values) if grid[-1] > grid[0] else (x, grid[::-1], values[::-1])


def _summary(grid: np.ndarray, log_density: np.ndarray) -> tuple[float, float, float, float, float]:
    """Median, ends of the 90 % interval, standard deviation, and what share is within 25 cm of the median."""
    order = np.argsort(grid)
    grid, weight = grid[order], np.exp(log_density - log_density.max())[order]
    weight /= weight.sum()
    cumulated = np.cumsum(weight) - weight / 2
    tail = (1 - INTERVAL) / 2
    low, median, high = np.interp([tail, 0.5, 1 - tail], cumulated, grid)
    deviation = float(np.sqrt(weight @ (grid - weight @ grid) ** 2 + BLUR**2))
    blur = 1.645 * BLUR
    low, high = median - np.hypot(median - low, blur), median + np.hypot(high - median, blur)
    return float(median), float(low), float(high), deviation, float(weight[np.abs(grid - median) <= NEAR].sum())
