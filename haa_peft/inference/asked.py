"""What may be asked of a pack: where, at which receiver, from how many references, with which phase and seed."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.checks import check_whole, real_numbers
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import check_single_precision
from haa_peft.model.phases import DIFFUSE, PHASES
from haa_peft.rooms.room import NEAREST
from haa_peft.store.names import AdapterName
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import damaged

FARTHEST_M = 1000.0
"""From the receiver, of positions where the room's shape is unknown."""
SHOWN = 8
"""Receivers that an error lists."""


def receiver_number(pack: RoomPack, receiver: object) -> int:
    """Which of a pack's receivers is meant: by its number, or its place (3,) m; None is the only one.

    Raises
    ------
    InputError
        When there are several and none is given, or nothing was measured at the one that is.
    """
    every = np.stack([single.receiver for single in pack.at_receivers])
    count = len(every)
    shown = ", ".join(f"{i} at {place}" for i, place in enumerate(every.round(3).tolist()[:SHOWN]))
    there = f"{shown}{', ...' if count > SHOWN else ''}"
    if receiver is None:
        if count > 1:
            raise InputError(f"{pack.name} has {count} receivers; say which one is meant: {there}")
        return 0
    if isinstance(receiver, Integral) and not isinstance(receiver, bool):
        if not 0 <= int(receiver) < count:
            raise InputError(
                f"receiver is {receiver} but {pack.name} has {there}; give 0{f' to {count - 1}' * (count > 1)}"
            )
        return int(receiver)
    place = real_numbers("receiver", receiver)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise InputError(f"receiver is {receiver!r:.60} but must be a number from 0 to {count - 1}, or [x, y, z] in m")
    away = np.linalg.norm(every - place, axis=1)
    if away.min() >= NEAREST:
        raise InputError(
            f"receiver {place.tolist()} was not measured in {pack.name}, which has {there}; RIRs between it and one of "
            "these are asked for with it as the position (reciprocity, for devices without directivity)"
        )
    return int(away.argmin())


def check_positions(pack: RoomPack, positions_xyz: ArrayLike) -> np.ndarray:
    """Positions (N, 3) m in room coordinates; raises ``InputError`` for those that the room does not have."""
    positions = np.atleast_2d(real_numbers("positions", positions_xyz))
    if positions.shape == (1, 0):  # an empty list
        positions = np.empty((0, 3))
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(f"positions are {positions.shape} but must be (N, 3) metres in room coordinates")
    if not np.isfinite(positions).all():
        raise InputError("positions hold NaN or infinity but must be finite metres in room coordinates")
    low, high = pack.geometry.bounds()
    outside = ((positions < low - NEAREST) | (positions > high + NEAREST)).any(axis=1)
    if outside.any():
        raise InputError(
            f"position {positions[outside][0].tolist()} lies outside {pack.name}, which spans "
            f"{low.round(3).tolist()} to {high.round(3).tolist()} m"
        )
    if not np.isfinite([low, high]).all():
        with np.errstate(over="ignore"):
            far = np.linalg.norm(positions - pack.receiver, axis=1) > FARTHEST_M
        if far.any():
            raise InputError(
                f"position {positions[far][0].tolist()} is too far from the receiver of {pack.name}, whose shape is "
                f"unknown; give metres within {FARTHEST_M:g} m of {pack.receiver.round(3).tolist()}"
            )
    near = np.linalg.norm(positions - pack.receiver, axis=1) < NEAREST
    if near.any():
        raise InputError(f"position {positions[near][0].tolist()} lies at the receiver of {pack.name}; keep 1 cm away")
    return positions


def check_references(pack: RoomPack, k: int | None) -> int:
    """K as given or as in training; raises ``InputError`` if it is more than the pack's references."""
    k = pack.card["training"]["k"] if k is None else check_whole("k", k, -(2**62))
    if not 1 <= k <= len(pack.rirs):
        raise InputError(f"k is {k} but {pack.name} holds {len(pack.rirs)} references; give 1 to {len(pack.rirs)}")
    return k


def check_finite_rirs(name: AdapterName, positions: np.ndarray, rirs: np.ndarray) -> np.ndarray:
    """RIRs (N, 9600) as they are; ``InputError`` with the position, of (N, 3) m, where one holds NaN or infinity."""
    finite = np.isfinite(rirs).all(axis=1)
    if not finite.all():
        raise damaged(name, f"the prediction at {positions[~finite][0].round(3).tolist()} is not finite")
    return rirs


def check_phase(phase: str | None) -> str | None:
    """Raise ``InputError`` for a phase that predictors do not have; None is allowed."""
    if phase is not None and (not isinstance(phase, str) or phase not in (*PHASES, DIFFUSE)):
        raise InputError(f"phase is {phase!r:.60} but must be one of {', '.join((*PHASES, DIFFUSE))}")
    return phase


def check_phase_seed(seed: int) -> None:
    """Raise ``InputError`` for a seed that generators do not take, or if torch's default type is not float32."""
    check_whole("seed", seed, 0, 2**32 - 1)
    check_single_precision()
