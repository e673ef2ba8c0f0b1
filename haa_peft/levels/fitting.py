"""Levels of a room: fitted to its measurements, blended by what the backbone tells of those that are left out."""

from __future__ import annotations

import dataclasses

import numpy as np

from haa_peft.levels.cells import cell_levels
from haa_peft.levels.room import RoomLevels
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.rooms.splits import farthest_points

FOLDS = 6


def fit_levels(backbone: XRIR, room: Room, k: int) -> RoomLevels:
    """Levels of a room from its own training measurements; see :class:`~haa_peft.levels.room.RoomLevels`.

    Parameters
    ----------
    backbone : that predicts measurements which are left out; with no adapter that may have seen them.
    room : whose training measurements are used, but for borrowed ones.
    k : references a prediction, fewer where fewer are left.
    """
    first, *others = (_fit(backbone, single, k) for single in room.at_receivers)
    return dataclasses.replace(first, others=tuple(others))


def _fit(backbone: XRIR, room: Room, k: int) -> RoomLevels:
    rirs, positions = room.rirs[room.own], room.positions[room.own] - room.receiver
    left_out = folds(positions)
    levels = left_out_levels(backbone, room, k, left_out)
    return RoomLevels.fit(rirs, positions, room.receiver, room.geometry, levels, left_out)


def left_out_levels(backbone: XRIR, room: Room, k: int, left_out: list[np.ndarray]) -> np.ndarray:
    """Levels (R, 8, 7) dB of a room's own training measurements, each predicted without those left out with it.

    Parameters
    ----------
    backbone, room, k : as for :func:`fit_levels`.
    left_out : sets of measurements, (R,) bool each, one for every measurement, as :func:`folds` gives them.
    """
    rirs, positions = room.rirs[room.own], room.positions[room.own] - room.receiver
    predicted = np.zeros_like(rirs)
    for out in left_out:
        tensors = RoomTensors.of_arrays(room.panorama, rirs[~out], positions[~out], backbone.device)
        predicted[out] = predict_rirs(backbone, tensors, positions[out], min(k, int((~out).sum())), 0)
    return cell_levels(predicted, np.linalg.norm(positions, axis=1))


def folds(positions: np.ndarray) -> list[np.ndarray]:
    """Sets of positions (R, 3), (R,) bool each and spread over the room; every position is in one."""
    count = len(positions)
    order = farthest_points(positions, count)
    return [np.isin(np.arange(count), order[i::FOLDS]) for i in range(min(FOLDS, count))] if count > 1 else []
