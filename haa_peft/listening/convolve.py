"""A sound through responses that change: each gives way to the next within a cross-fade, so that nothing clicks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.signal import oaconvolve

CHUNK = 1 << 18
"""Samples that are convolved at once where nothing changes."""


class Interval(NamedTuple):
    """Samples from ``start`` to ``stop``, in which response number ``first`` gives way to ``last``."""

    start: int
    stop: int
    first: int
    last: int


def intervals(poses: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, list[Interval]]:
    """Poses without repetition (P, 5), and the intervals between edges (M,) in samples at which poses (M, 5) hold."""
    changed = (np.diff(poses, axis=0) != 0).any(axis=1)
    number = np.concatenate([[0], np.cumsum(changed)])
    found: list[Interval] = []
    for i, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        first, last = int(number[i]), int(number[i + 1])
        before = found[-1] if found else None
        if before and before.first == before.last == first == last and stop - before.start <= CHUNK:
            found[-1] = before._replace(stop=stop)
        elif stop > start:
            found.append(Interval(start, stop, first, last))
    return poses[np.concatenate([[True], changed])], found


def sent_along(dry: np.ndarray, responses: Iterable[np.ndarray], parts: Iterable[Interval]) -> Iterator[np.ndarray]:
    """The sound where it goes out from a moving source: what it sends in a moment is heard by the response of then.

    Parameters
    ----------
    dry : (N,).
    responses : (C, T) each, in the order of their numbers.
    parts : which follow each other from the first sample to the last.

    Yields
    ------
    (C, n) float32, N + T - 1 samples altogether.
    """
    store = _Responses(responses)
    rest = np.zeros_like(store[0])[:, 1:]
    for part in parts:
        sound = dry[None, part.start : part.stop]
        ramp = _ramp(part)
        if part.first == part.last:
            found = oaconvolve(sound, store[part.first], axes=1)
        else:
            found = oaconvolve(sound * (1 - ramp), store[part.first], axes=1)
            found += oaconvolve(sound * ramp, store[part.last], axes=1)
        found[:, : rest.shape[1]] += rest
        done = part.stop - part.start
        rest = found[:, done:]
        yield found[:, :done].astype(np.float32)
    if rest.shape[1]:
        yield rest.astype(np.float32)


def heard_along(dry: np.ndarray, responses: Iterable[np.ndarray], parts: Iterable[Interval]) -> Iterator[np.ndarray]:
    """The sound where a moving head hears it: all that arrives in a moment is heard by the response of then.

    Parameters
    ----------
    dry : (N,).
    responses : (C, T) each, in the order of their numbers.
    parts : which follow each other from the first sample to the last of the result, N + T - 1.

    Yields
    ------
    (C, n) float32.
    """
    store = _Responses(responses)
    before = store[0].shape[1] - 1
    for part in parts:
        sound = np.zeros((1, before + part.stop - part.start))
        piece = dry[max(0, part.start - before) : part.stop]
        late = max(0, before - part.start)
        sound[0, late : late + len(piece)] = piece
        kept = slice(before, before + part.stop - part.start)
        found = oaconvolve(sound, store[part.first], axes=1)[:, kept]
        if part.first != part.last:
            ramp = _ramp(part)
            found = found * (1 - ramp) + ramp * oaconvolve(sound, store[part.last], axes=1)[:, kept]
        yield found.astype(np.float32)


class _Responses:
    """The last two of a stream of responses (C, T), as float64."""

    def __init__(self, responses: Iterable[np.ndarray]) -> None:
        self._coming, self._count = iter(responses), 0
        self._kept: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        while number not in self._kept:
            self._kept.pop(self._count - 2, None)
            self._kept[self._count] = next(self._coming).astype(np.float64)
            self._count += 1
        return self._kept[number]


def _ramp(part: Interval) -> np.ndarray:
    """From 0 to 1 within an interval, without corners."""
    return np.sin(np.pi / 2 * (np.arange(part.stop - part.start) + 0.5) / (part.stop - part.start)) ** 2
