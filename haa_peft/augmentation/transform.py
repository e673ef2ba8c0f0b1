"""The same sound in the same room, described otherwise: turned, mirrored, enlarged, shown from elsewhere.

Each gives a room whose RIRs are what would be measured in it. What can be moved of the origin is that of room
coordinates, which nothing depends on, and that of the panorama (:func:`seen_from`). Moving receiver and positions
through the room together is none of these: the RIR is another one then, if one with much the same decay. In a simulated
box of 9.7 x 5.5 x 2.7 m with an EDT of 0.5 s, EDT is another by 3 %, C50 by 0.3 dB and T60 by 1 %, for 10 cm as for 1 m
(``registration`` among the errors of measurement, :mod:`haa_peft.augmentation.settings`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from haa_peft.acoustics.resampling import resample
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.room import Room

CLEARANCE = 0.2
"""Metres that are left between a panorama's viewpoint and a surface."""
AXES = {"x": (-1.0, 1.0, 1.0), "y": (1.0, -1.0, 1.0), "xy": (-1.0, -1.0, 1.0)}
"""Signs of coordinates in mirror images; ``xy`` is half a turn."""
LARGEST = 2.0
"""Factor by which a room can be enlarged."""
ZERO_CROSSINGS = 32
"""Half-width of the interpolation's kernel in samples."""


def rotated(room: Room, degrees: float) -> Room:
    """The room turned about the vertical through its receiver, +x towards +y.

    Exact for transducers of any directivity, which turn along. Nothing tells the network where they point, so for a
    directional one the result is another room: what adaptation learns of its orientation does not hold there.
    """
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return _mapped(room, np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]))


def mirrored(room: Room, axes: str) -> Room:
    """The room's mirror image in the vertical plane through the receiver across ``x`` or ``y``, or in both.

    Exact as :func:`rotated` is.
    """
    return _mapped(room, np.diag(AXES[axes]))


def scaled(room: Room, factor: float) -> Room:
    """The room enlarged about its receiver, distances and times by ``factor``, which is taken in whole percent.

    The wave equation stays what it is if space and time are stretched alike. A point source's pressure
    ``delta(t - r/c) / r`` becomes ``delta(t - s r/c) / (s r)``, so ``h_s(t) = h(t/s) / s^2``: 1/s of it is spreading,
    the other keeps the area of a pulse that is s times as long. At the same sample rate, h(t/s) is what resampling
    gives. ``Room.scale`` takes up the level, since RIRs are in units of the loudest.

    Three things are not exact. What a surface absorbs at a frequency is what the original absorbed at s times that.
    Air is not stretched: its energy losses go from m(f) to m(s f) / s instead of m(f), with pyroomacoustics' table for
    20 degrees C and 30 to 50 % humidity at 4 kHz and 10 % about 0.7 dB a second too much (of 120 at T60 = 0.5 s). And
    the band above 11 kHz / s is empty. Rooms are not made smaller, since their sound after 0.435 s would be needed:
    ``InputError`` is raised for factors below 1 or above 2.
    """
    percent = round(100 * factor)
    if not 100 <= percent <= 100 * LARGEST:
        raise InputError(f"a room cannot be enlarged by a factor of {factor}; give 1 to {LARGEST:g}")
    if percent == 100:
        return room
    stretched = resample(room.rirs, 100, percent, ZERO_CROSSINGS)
    larger = _mapped(room, np.eye(3) * percent / 100)
    return dataclasses.replace(larger, rirs=stretched / np.float32((percent / 100) ** 2)).with_splits(room.splits)


def seen_from(room: Room, shift: np.ndarray) -> Room:
    """The room with its panorama taken ``shift`` (3,) m beside the receiver, as far as nothing is in the way.

    Receiver and positions then lie elsewhere in the panorama, by the same vector, and nothing else changes: a pixel
    still holds where its surface is, as seen from the receiver, and the RIRs stay exactly right.
    """
    length = float(np.linalg.norm(shift))
    if length == 0:
        return room
    share = min(1.0, max(0.0, free_path(room, shift)) / length)
    return dataclasses.replace(room, viewpoint=room.receiver + share * shift)


def free_path(room: Room, shift: np.ndarray) -> float:
    """Metres from the receiver in the direction of ``shift`` (3,) to ``CLEARANCE`` before a surface."""
    return float(render_depth(planes_of(room), room.receiver, shift / np.linalg.norm(shift))) - CLEARANCE


def planes_of(room: Room) -> Surfaces:
    """The planes that transforms move; raises ``InputError`` for a room without any."""
    if room.surfaces is None:
        raise InputError(
            f"{room.name} has no planes but a depth panorama, which --augment does not move; "
            "give --augment positions alone, or geometry with planes"
        )
    return room.surfaces


def stretched_between(surfaces: Surfaces, low: np.ndarray, high: np.ndarray) -> Surfaces:
    """Surfaces whose bounds become ``low`` and ``high`` (3,) m, axis by axis, so that a closed room stays closed."""
    before, after = surfaces.bounds()
    share = (surfaces.points - before) / np.maximum(after - before, 1e-9)
    return dataclasses.replace(surfaces, points=low + share * (high - low))


def _mapped(room: Room, matrix: np.ndarray) -> Room:
    """The room's places under a linear map (3, 3) that leaves the receiver where it is."""

    def mapped(points: np.ndarray) -> np.ndarray:
        return (points - room.receiver) @ matrix.T + room.receiver

    planes = planes_of(room)
    return dataclasses.replace(
        room,
        positions=mapped(room.positions),
        geometry=dataclasses.replace(planes, points=mapped(planes.points)),
        viewpoint=None if room.viewpoint is None else mapped(room.viewpoint),
    )
