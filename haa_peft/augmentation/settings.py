"""Variants of a room to train in beside it: transformed exactly, or changed within the errors of a measurement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.augmentation.transform import (
    AXES,
    LARGEST,
    free_path,
    mirrored,
    planes_of,
    rotated,
    scaled,
    seen_from,
    stretched_between,
)
from haa_peft.errors import InputError
from haa_peft.rooms.room import NEAREST, Room

USUAL = {
    "rotation": 1.0,
    "mirror": True,
    "translation": 0.5,
    "scale": 0.1,
    "positions": 0.05,
    "receiver": 0.1,
    "surfaces": 0.05,
    "registration": 0.1,
}
"""What a name alone stands for."""
LIMITS = {
    "rotation": 180.0,
    "translation": 10.0,
    "scale": LARGEST - 1,
    "positions": 2.0,
    "receiver": 2.0,
    "surfaces": 2.0,
    "registration": 2.0,
}
"""Largest values."""
VARIANTS = 12
"""Of a room, made when they are first drawn; each is prepared as the room itself is, in a quarter of a second."""
VARIED = 0.5
"""Share of the steps that are trained in a variant, if there are any."""
CHOICE = 1
"""Tells the draw of a variant from that of references."""
TRIES = 20
"""Draws of an error that would put something outside the room; then there is none."""


@dataclass(frozen=True)
class Augmentation:
    """What a room is varied by while an adapter trains; everything is off unless given.

    Attributes
    ----------
    rotation : about the vertical through the receiver, by whole multiples of this many degrees.
    mirror : across x, y, both or neither.
    translation : the panorama's viewpoint lies up to this many metres beside the receiver.
    scale : enlarged by up to this share, with the time axis.
    positions : standard deviation of positions along each axis in metres; their RIRs stay.
    receiver : the same of the receiver, which moves against surfaces and positions.
    surfaces : the same of each side of the box around the room, and between the sides all surfaces move with them.
    registration : the same of receiver and positions together against the surfaces.

    The first four leave the RIRs exactly right (:mod:`haa_peft.augmentation.transform`), the others are what is not
    known.
    """

    rotation: float = 0.0
    mirror: bool = False
    translation: float = 0.0
    scale: float = 0.0
    positions: float = 0.0
    receiver: float = 0.0
    surfaces: float = 0.0
    registration: float = 0.0

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise InputError(f"--augment {name}={value:g} must be from 0 to {most:g}")
        if 0 < self.scale < 0.01:
            raise InputError(
                f"--augment scale={self.scale:g} must be at least 0.01: rooms are enlarged by whole percent"
            )
        if self.rotation and not math.isclose(360 / self.rotation, round(360 / self.rotation)):
            raise InputError(f"--augment rotation={self.rotation:g} must divide 360 degrees, as 90 or 1 do")

    @classmethod
    def parse(cls, texts: Iterable[Any]) -> Augmentation:
        """Read ``["mirror", "scale=0.2"]``; a name alone stands for ``USUAL``.

        Raises ``InputError`` for anything else.
        """
        values: dict[str, Any] = {}
        for text in texts:
            name, equals, number = str(text).partition("=")
            if name not in USUAL or name in values or (equals and name == "mirror"):
                raise InputError(f"--augment {text}: give each of {', '.join(USUAL)} once, all but mirror with =NUMBER")
            try:
                values[name] = float(number) if equals else USUAL[name]
            except ValueError:
                raise InputError(f"--augment {text}: {number!r} must be a number") from None
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """What is on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    def __bool__(self) -> bool:
        """Whether anything is on."""
        return bool(self.to_json())

    def check(self, room: Room) -> None:
        """Raise ``InputError`` for a room that cannot be varied so."""
        if self.to_json().keys() - {"positions"}:
            planes_of(room)

    def draw(self, seed: int, step: int, room: int) -> int:
        """The number of the variant that a step takes place in, of a room by its number; 0 for the room itself."""
        rng = np.random.default_rng((seed, step, room, CHOICE))
        if not self or rng.random() >= VARIED:
            return 0
        return int(rng.integers(VARIANTS)) + 1

    def vary(self, room: Room, seed: tuple[int, ...]) -> Room:
        """A variant of a room's training measurements: :func:`vary`."""
        return vary(room, self, seed)


def vary(room: Room, augmentation: Augmentation, seed: tuple[int, ...]) -> Room:
    """A variant of a room's training measurements; the same for the same seed, whatever else is on.

    First what is not known of the room, in its own metres; then the exact transforms.
    """
    empty = np.array([], dtype=np.int64)
    room = dataclasses.replace(room, splits={**room.splits, "valid": empty, "test": empty}, loan=None)
    chance = {name: np.random.default_rng((*seed, number)) for number, name in enumerate(USUAL, start=1)}
    if augmentation.positions:
        room = with_positions(room, augmentation.positions, chance["positions"])
    if augmentation.receiver:
        room = _with_receiver(room, augmentation.receiver, chance["receiver"])
    if augmentation.surfaces:
        room = _with_sides(room, lambda: chance["surfaces"].normal(0, augmentation.surfaces, (2, 3)))
    if augmentation.registration:
        room = _with_sides(room, lambda: chance["registration"].normal(0, augmentation.registration, (1, 3)))
    if augmentation.scale:
        room = scaled(room, 1 + chance["scale"].integers(round(100 * augmentation.scale), endpoint=True) / 100)
    if augmentation.mirror:
        axes = chance["mirror"].choice(["", *AXES])
        room = mirrored(room, str(axes)) if axes else room
    if augmentation.rotation:
        room = rotated(room, augmentation.rotation * chance["rotation"].integers(round(360 / augmentation.rotation)))
    if augmentation.translation:
        rng = chance["translation"]
        way = rng.normal(size=3)
        room = seen_from(room, way / np.linalg.norm(way) * augmentation.translation * rng.random() ** (1 / 3))
    return room


def with_positions(room: Room, deviation: float, rng: np.random.Generator) -> Room:
    """The room with its positions displaced, by a normal deviate of so many metres along each axis.

    What would lie outside the box around the room, or within 1 cm of the receiver, is drawn again, and stays where it
    is after ``TRIES`` draws. The same ``rng`` displaces in the same directions, whatever the deviation.
    """
    low, high = room.geometry.bounds()
    positions = room.positions.copy()
    left = np.arange(len(positions))
    for _ in range(TRIES):
        moved = room.positions + rng.normal(0, deviation, positions.shape)
        fits = _inside(moved, low, high) & (np.linalg.norm(moved - room.receiver, axis=1) > NEAREST)
        kept = left[fits[left]]
        positions[kept] = moved[kept]
        left = left[~fits[left]]
    return dataclasses.replace(room, positions=positions)


def _with_receiver(room: Room, deviation: float, rng: np.random.Generator) -> Room:
    """The receiver somewhere within its error, on the same side of all surfaces."""
    for _ in range(TRIES):
        shift = rng.normal(0, deviation, 3)
        moved = room.receiver + shift
        is_free = free_path(room, shift) > np.linalg.norm(shift)
        if is_free and np.linalg.norm(room.positions - moved, axis=1).min() > NEAREST:
            return dataclasses.replace(room, receiver=moved)
    return room


def _with_sides(room: Room, draw: Callable[[], np.ndarray]) -> Room:
    """The low and the high sides of the box around the room shifted by (2, 3) m, receiver and positions inside."""
    planes = planes_of(room)
    bounds = np.stack(planes.bounds())
    places = np.concatenate([room.positions, room.receiver[None]])
    for _ in range(TRIES):
        low, high = bounds + draw()
        if _inside(places, low, high).all():
            return dataclasses.replace(room, geometry=stretched_between(planes, low, high))
    return room


def _inside(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which places (N, 3) lie inside a box, (N,)."""
    return np.all((places > low) & (places < high), axis=1)
