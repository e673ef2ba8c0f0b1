"""What the page shows and plays: of one of the offered adapters, at positions in its room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from haa_peft.checks import real_numbers
from haa_peft.errors import InputError
from haa_peft.exporting.places import along, grid
from haa_peft.inference.predictor import RoomPredictor
from haa_peft.maps.deviation import Deviations
from haa_peft.maps.field import Map, make_map
from haa_peft.maps.metrics import BROADBAND, METRICS, metric_values
from haa_peft.maps.plan import Plan, floor_plan

Kept = TypeVar("Kept")

MAP_POINTS = 300
"""About so many of a map; a finer one is what ``haa-peft map`` is for."""
MOST_KEPT = 256
"""Maps and the like in memory."""
FARTHEST_M = 1e4
LONGEST_PATH = 200
"""Corners of a drawn path."""
SHORTEST_M = 0.01
MOST_STOPS, SOONEST_S, FADE_S = 40, 0.1, 0.05
"""Positions of a path at which responses are computed, seconds from one to the next, and of a cross-fade."""
STEP_M = 0.25
"""Between the positions of a path that are written into a SOFA file."""


@dataclass(frozen=True)
class Place:
    """A position in a room, and the measurement nearest to it.

    Attributes
    ----------
    position, receiver : (3,) m.
    rir, measured : (9600,) predicted here, measured at ``nearest``, in units of the measurements.
    nearest : (3,) m, and ``away`` how far that is, m.
    values, deviations, there : metrics predicted here, their standard deviations, metrics measured at ``nearest``.
    """

    position: np.ndarray
    receiver: np.ndarray
    rir: np.ndarray
    measured: np.ndarray
    nearest: np.ndarray
    away: float
    values: dict[str, float]
    deviations: dict[str, float]
    there: dict[str, float]


class Answers:
    """Predictions of the adapters that a page offers; threads may share it.

    Parameters
    ----------
    predictor : with one of them loaded.
    names : of the adapters, the first one shown first.
    """

    def __init__(self, predictor: RoomPredictor, names: Sequence[str]) -> None:
        self.predictor, self.names = predictor, list(names)
        self.rate = predictor.sample_rate
        self._kept: OrderedDict[tuple, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def rooms(self) -> dict[str, list[str]]:
        """Names of the configurations of each room, both in the order of the names."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            room, _, configuration = name.rpartition("/")
            found.setdefault(room, []).append(configuration)
        return found

    def use(self, name: object, receiver: object = 0) -> tuple[str, int]:
        """Make an adapter the one in use in this thread; its name and the number of the receiver.

        Raises
        ------
        InputError
            For one that the page does not offer, or that cannot be loaded.
        """
        if not isinstance(name, str) or name not in self.names:
            raise InputError(f"adapter {name!r:.80} is not among those offered here; choose one of the list")
        self.predictor.switch(name)
        count = len(self.predictor.receivers)
        number = 0 if receiver in (None, "") else receiver
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            raise InputError(f"receiver is {receiver!r:.20} but {name} has {count}, counted from 0")
        return name, number

    def _key(self, *parts: object) -> tuple:
        return (self.predictor.name, self.predictor.card.get("digest"), *parts)

    def _keep(self, key: tuple, make: Callable[[], Kept]) -> Kept:
        """What was made of the adapter in use under a key, made now unless it was before."""
        whole = self._key(*key)
        with self._lock:
            if whole in self._kept:
                self._kept.move_to_end(whole)
                return self._kept[whole]
        made = make()
        with self._lock:
            self._kept[whole] = made
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def usual_height(self, receiver: int) -> float:
        """Median height of the measured positions, m, of the adapter in use."""
        return round(float(np.median(self.predictor.measured(receiver).positions[:, 2])), 2)

    def start(self, receiver: int) -> np.ndarray:
        """A position (3,) m to begin with: half a metre from the middle of all measurements, where they allow it."""
        _, positions, *_ = self.predictor.measured(receiver)
        middle = np.median(positions, axis=0)
        nearest = positions[np.linalg.norm(positions - middle, axis=1).argmin()]
        candidates = [middle, (middle + nearest) / 2, nearest]
        for place in candidates:
            try:
                self.predictor.predict(place, receiver=receiver)
            except InputError:
                continue
            return np.asarray(place.round(2))
        return np.asarray(nearest)

    def plan(self, receiver: int, height: float) -> Plan:
        """The floor plan at a height in m."""
        return floor_plan(self.predictor.geometry, self.predictor.receivers[receiver], height)

    def map(self, metric: str, band: str, receiver: int, height: float) -> Map:
        """A metric over the floor.

        Parameters
        ----------
        metric, band, receiver : as :func:`~haa_peft.maps.field.make_map` takes them.
        height : m.
        """
        return self._keep(("map", metric, band, receiver, height), lambda: self._map(metric, band, receiver, height))

    def has_map(self, metric: str, band: str, receiver: int, height: float) -> bool:
        """Whether a map of the adapter in use is made already.

        Parameters
        ----------
        metric, band, receiver, height : as for :meth:`map`.
        """
        with self._lock:
            return self._key("map", metric, band, receiver, height) in self._kept

    def _map(self, metric: str, band: str, receiver: int, height: float) -> Map:
        place, references, *_ = self.predictor.measured(receiver)
        low, high = self.predictor.geometry.bounds()
        if not np.isfinite([low, high]).all():
            low, high = references.min(axis=0), references.max(axis=0)
        spacing = float(np.clip(np.sqrt(np.prod((high - low)[:2]) / MAP_POINTS), 0.02, 100))
        points = grid(self.predictor.geometry, place[None], spacing, [height], references)
        return make_map(self.predictor, points, metric, band, receiver=receiver)

    def at(self, position: np.ndarray, band: str, receiver: int) -> Place:
        """What is heard at a position (3,) m, all metrics in a band, and what was measured nearest to it."""
        return self._keep(("at", position.tobytes(), band, receiver), lambda: self._at(position, band, receiver))

    def _at(self, position: np.ndarray, band: str, receiver: int) -> Place:
        rir = self.predictor.predict(position, receiver=receiver)[0] * self.predictor.scale
        place, positions, rirs, _ = self.predictor.measured(receiver)
        apart = np.linalg.norm(positions - position, axis=1)
        row = int(apart.argmin())
        measured = rirs[row] * self.predictor.scale
        known = self._keep(("deviations", receiver), lambda: Deviations(self.predictor, receiver=receiver))
        decibels = float(known.at(position[None])[0])
        values, deviations, there = {}, {}, {}
        for metric in METRICS:
            of = BROADBAND if metric == "sti" else band
            values[metric], there[metric] = metric_values(np.stack([rir, measured]), self.rate, metric, of)
            slope = self._keep(("slope", metric, of, receiver), partial(known.per_decibel, metric, of))
            deviations[metric] = decibels * slope
        return Place(position, place, rir, measured, positions[row], float(apart[row]), values, deviations, there)


def read_position(x: object, y: object, z: object) -> np.ndarray:
    """A position (3,) m of three fields; raises ``InputError`` for what are no numbers."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (x, y, z)):
        raise InputError("x, y and height must be numbers of metres; fill in all three")
    place = real_numbers("position", [x, y, z])
    if not np.isfinite(place).all() or np.abs(place).max() > FARTHEST_M:
        raise InputError(f"position {place.tolist()} must be finite, in metres")
    return place


def read_path(text: object, height: float) -> np.ndarray:
    """Corners (P, 3) m of a path, given as ``x y; x y; ...`` in metres, all at one height in m.

    Raises
    ------
    InputError
        For another text, fewer than two corners or more than ``LONGEST_PATH``.
    """
    corners = [corner.replace(",", " ").split() for corner in str(text or "").split(";") if corner.strip()]
    if not 2 <= len(corners) <= LONGEST_PATH:
        raise InputError(f"the path has {len(corners)} corners but must have 2 to {LONGEST_PATH}; draw it on the plan")
    if any(len(corner) != 2 for corner in corners):
        raise InputError("the path must be written as x y; x y; ... in metres")
    try:
        points = np.array(corners, dtype=float)
    except ValueError:
        raise InputError("the path must be written as x y; x y; ... in metres") from None
    if not np.isfinite(points).all() or np.abs(points).max() > FARTHEST_M:
        raise InputError("the path's coordinates must be finite, in metres")
    return np.column_stack([points, np.full(len(points), height)])


def timed(corners: np.ndarray, speed: float) -> np.ndarray:
    """Rows (N, 4) of seconds and m along a path (P, 3) m that is walked at a speed in m/s.

    Responses are computed at ``MOST_STOPS`` positions at most; each is stayed at until the next is due, and
    cross-faded to it then.

    Raises
    ------
    InputError
        For a speed outside 0.1 to 10 m/s, or a path without length.
    """
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0.1 <= speed <= 10:
        raise InputError(f"speed is {speed!r:.20} but must be from 0.1 to 10 m/s")
    so_far = np.concatenate([[0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    if so_far[-1] < SHORTEST_M:
        raise InputError("the path has no length; draw it on the plan")
    seconds = so_far[-1] / speed
    count = int(np.clip(np.ceil(seconds / SOONEST_S), 1, MOST_STOPS - 1)) + 1
    times = np.linspace(0, seconds, count)
    places = np.stack([np.interp(times * speed, so_far, axis) for axis in corners.T], axis=1)
    stay = np.maximum(times[1:] - FADE_S, (times[1:] + times[:-1]) / 2)  # at the former place until then
    rows = np.column_stack([np.concatenate([times, stay]), np.concatenate([places, places[:-1]])])
    return rows[rows[:, 0].argsort(kind="stable")]


def stops(corners: np.ndarray) -> np.ndarray:
    """Positions (N, 3) m along a path (P, 3) m, ``STEP_M`` apart."""
    return along(corners, STEP_M)
