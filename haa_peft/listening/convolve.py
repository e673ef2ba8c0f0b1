"""A sound through responses that change: each gives way to the next within a cross-fade, so that nothing clicks.

While it does, the direct sound keeps its own time: what goes through both is stretched or squeezed by as much as its
way becomes longer or shorter. So the two do not cancel each other, and what comes nearer sounds higher (Doppler).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import oaconvolve

CHUNK = 1 << 18
"""Samples that are convolved at once where nothing changes."""
FASTEST = 0.1
"""Of the speed of sound, above which nothing is stretched: a jump."""
TAPS = 32
"""Of the filter that reads between samples."""


class Interval(NamedTuple):
    """Samples from ``start`` to ``stop``, in which response number ``first`` gives way to ``last``."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def length(self) -> int:
        """Samples."""
        return self.stop - self.start

    def ramp(self, place: np.ndarray) -> np.ndarray:
        """From 0 to 1 without corners, at places (n,) in samples behind the start."""
        return np.sin(np.pi / 2 * ((place + 0.5) / self.length).clip(0, 1)) ** 2

    def later(self, delays: Sequence[float] | np.ndarray) -> float:
        """Samples by which the direct sound is later in the end, of ``delays`` (P,) of all responses; 0 in a jump."""
        later = float(delays[self.last] - delays[self.first])
        return later if abs(later) <= FASTEST * self.length else 0.0


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


def sent_along(
    dry: np.ndarray, responses: Iterable[np.ndarray], delays: np.ndarray, parts: Sequence[Interval]
) -> Iterator[np.ndarray]:
    """The sound of a moving source: what it sends in a moment is heard by the response of then.

    Parameters
    ----------
    dry : (N,).
    responses : (C, T) each, in the order of their numbers.
    delays : (P,) samples until the direct sound arrives, of each response.
    parts : which follow each other from the first sample to the last.

    Yields
    ------
    (C, n) float32, N + T - 1 samples altogether.
    """
    store = _Responses(responses)
    channels, length = store[0].shape
    margin = int(np.ceil(max(abs(part.later(delays)) for part in parts))) + 1  # what is stretched may begin earlier
    done, rest = 0, np.zeros((channels, margin))
    for part in parts:
        found = np.zeros((channels, part.stop + margin + length - done))
        found[:, : rest.shape[1]] = rest
        for response, sound, start in _sent(dry, part, part.later(delays)):
            wet = oaconvolve(sound[None], store[response], axes=1)
            found[:, start - done : start - done + wet.shape[1]] += wet
        until = max(done, part.stop - margin)
        yield found[:, : until - done].astype(np.float32)
        done, rest = until, found[:, until - done :]
    yield rest[:, : len(dry) + length - 1 - done].astype(np.float32)


def _sent(dry: np.ndarray, part: Interval, later: float) -> Iterator[tuple[int, np.ndarray, int]]:
    """Responses by number, what goes through them (n,), and the sample with which that begins."""
    if part.first == part.last:
        yield part.first, dry[part.start : part.stop], part.start
        return
    stretch = 1 + later / part.length
    ahead = np.arange(np.ceil(part.length + later)) / stretch
    sound = between(dry[None], part.start + ahead)[0]
    yield part.first, sound * (1 - part.ramp(ahead)), part.start
    count = min(int(np.floor(part.length + later)), part.stop)  # what would begin before the sound is left out
    place = part.length + np.arange(-count, 0) / stretch
    yield part.last, between(dry[None], part.start + place)[0] * part.ramp(place), part.stop - count


def heard_along(
    dry: np.ndarray, responses: Iterable[np.ndarray], delays: np.ndarray, parts: Sequence[Interval]
) -> Iterator[np.ndarray]:
    """The sound where a moving head hears it: all that arrives in a moment is heard by the response of then.

    Parameters
    ----------
    dry : (N,).
    responses : (C, T) each, in the order of their numbers.
    delays : (P,) samples until the direct sound arrives, of each response.
    parts : which follow each other from the first sample to the last of the result, N + T - 1.

    Yields
    ------
    (C, n) float32.
    """
    store = _Responses(responses)
    for part in parts:
        if part.first == part.last:
            yield _heard(dry, store[part.first], part.start, part.stop).astype(np.float32)
            continue
        later, place = part.later(delays), np.arange(part.length)
        gone, beside = later * place / part.length, int(np.ceil(abs(later))) + TAPS
        first, last = (
            between(_heard(dry, store[number], part.start - beside, part.stop + beside), beside + place - shift)
            for number, shift in ((part.first, gone), (part.last, gone - later))
        )
        ramp = part.ramp(place)
        yield (first * (1 - ramp) + last * ramp).astype(np.float32)


def _heard(dry: np.ndarray, response: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples (C, stop - start) of a sound (N,) through a response (C, T)."""
    before = response.shape[1] - 1
    sound = np.zeros((1, before + stop - start))
    piece = dry[max(0, start - before) : max(0, stop)]
    late = max(0, before - start)
    sound[0, late : late + len(piece)] = piece
    return oaconvolve(sound, response, axes=1)[:, before : before + stop - start]


def between(signal: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (C, n) of a signal (C, N) at places (n,) between its samples, by a windowed sinc; none outside."""
    base = np.floor(places).astype(int)
    if (base == places).all() and len(base) and base[0] >= 0 and base[-1] < signal.shape[1]:
        return signal[:, base]
    near = np.arange(1 - TAPS // 2, TAPS // 2 + 1)
    away = (places - base)[:, None] - near
    weights = np.sinc(away) * np.cos(np.pi / TAPS * away) ** 2
    rows = base[:, None] + near
    inside = (rows >= 0) & (rows < signal.shape[1])
    taken = signal[:, rows.clip(0, signal.shape[1] - 1)]
    return np.einsum("cnt,nt->cn", taken, weights * inside)


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
