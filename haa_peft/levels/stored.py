"""Levels that packs keep, with measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from haa_peft.levels.room import RoomLevels
from haa_peft.rooms.room import Room
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import LEVELS, VIEWS, damaged


def stored_levels(pairs: Sequence[tuple[RoomPack, Room]]) -> RoomLevels:
    """The levels that a pack keeps at each receiver, with a room's training measurements there.

    Raises ``InputError`` where they are damaged.
    """
    first, *others = (_stored(*pair) for pair in pairs)
    return dataclasses.replace(first, others=tuple(others))


def _stored(pack: RoomPack, room: Room) -> RoomLevels:
    if pack.levels is None:
        raise damaged(pack.name, f"{VIEWS} has no levels of the receiver {pack.receiver.round(3).tolist()}")
    train = room.splits["train"]
    places = room.positions[train] - room.receiver
    return RoomLevels.of_tensors(pack.levels, room.rirs[train], places, room.receiver, room.geometry,
                                 f"{pack.name}: {LEVELS}")  # fmt: skip
