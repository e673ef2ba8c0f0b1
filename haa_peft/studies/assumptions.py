"""What a run of a study takes a room to be: with another geometry than it has, measured at positions that are off."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.augmentation.settings import with_positions
from haa_peft.errors import InputError
from haa_peft.geometry.estimate.network import weights_fingerprint
from haa_peft.geometry.panorama import DepthMap
from haa_peft.geometry.sources import NETWORK, SOUND, WORDS, follows_measurements, geometry_argument
from haa_peft.rooms.load import check_shape, geometry_reader, load_room
from haa_peft.rooms.room import Room

OF = "of"
"""The key of an entry that names another room, whose panorama is taken for this one's, as upstream did by mistake."""


@dataclass(frozen=True)
class Assumption:
    """What is taken for true of one room.

    Attributes
    ----------
    geometry : a ``geometry`` entry, or ``{"of": ROOM}``, as JSON; the room's own if empty.
    folder : that the entry's file names are relative to.
    position_error : metres, root mean square of the distances by which positions are off.
    """

    geometry: str = ""
    folder: str = ""
    position_error: float = 0.0

    @classmethod
    def read(cls, given: object, position_error: float, room: str) -> Assumption:
        """Of a run's keys ``geometry`` and ``position_error``, for the configurations of ``room``.

        ``geometry`` is what ``--geometry`` takes, an entry itself, or ``{"of": ROOM}``, where ROOM is a folder or a
        name, or a mapping of every room of the study to one. Raises ``InputError`` for anything else; files are looked
        into later.
        """
        if given is None:
            return cls(position_error=position_error)
        if isinstance(given, Mapping) and OF in given:
            other = given[OF].get(room) if isinstance(given[OF], Mapping) else given[OF]
            if len(given) > 1 or not isinstance(other, str):
                raise InputError(
                    f"geometry is {given!r:.80} but must be {{of: ROOM}}, another room's folder or a mapping of rooms "
                    f"to folders that has {room}"
                )
            path = Path(other)
            return cls(json.dumps({OF: str(path.resolve()) if path.exists() else other}), "", position_error)
        entry, folder, _ = geometry_argument(given)
        return cls(json.dumps(entry, sort_keys=True), str(folder.resolve()), position_error)

    @property
    def entry(self) -> Any:
        """The ``geometry`` entry; None for the room's own."""
        return json.loads(self.geometry or "null")

    @property
    def other(self) -> str | None:
        """The other room whose panorama is taken for this one's, if it is another's."""
        return self.entry[OF] if isinstance(self.entry, dict) and OF in self.entry else None

    @property
    def follows(self) -> bool:
        """Whether the geometry is made from the training measurements."""
        return follows_measurements(self.entry)

    def made_by(self) -> Any:
        """What results depend on where the depth itself, to its last bit, does not say it.

        The entry of what follows from measurements, with the fingerprint of the network if one makes it; of another
        room's panorama that room's fingerprint. None where the room's own fingerprint says it.
        """
        if self.other is not None:
            return {OF: load_room(self.other).fingerprint}
        if not self.follows:
            return None
        entry = self.entry
        if isinstance(entry, str):
            entry = WORDS[entry]
        if isinstance(entry, dict) and entry.get(SOUND) == NETWORK:
            return {**entry, NETWORK: weights_fingerprint()}
        return self.entry

    def applied(self, room: Room, seed: int) -> Room:
        """The room as it is taken to be by a run of this seed.

        Training and validation positions are displaced, as :func:`~haa_peft.augmentation.settings.with_positions` does,
        in directions that the seed and the room's name draw; test positions and surfaces are not. What geometry
        follows from measurements then sees them displaced.
        """
        if self.position_error:
            rng = np.random.default_rng((seed, zlib.crc32(room.name.encode())))
            moved = with_positions(room, self.position_error / math.sqrt(3), rng).positions
            known = np.concatenate([room.splits["train"], room.splits["valid"]])
            positions = room.positions.copy()
            positions[known] = moved[known]
            room = dataclasses.replace(room, positions=positions)
        if self.other is not None:
            return dataclasses.replace(room, geometry=seen_in(self.other)[1], fit=None)
        if self.geometry:
            return with_geometry(room, self.entry, Path(self.folder), f"geometry {self.geometry:.60}")
        return room.refitted()


@lru_cache(maxsize=8)
def seen_in(folder: str) -> tuple[str, DepthMap]:
    """Another room's name, and what its receiver sees around itself."""
    other = load_room(folder).alone("a study")
    endless = np.full(3, np.inf)
    depth = np.linalg.norm(other.panorama, axis=0)
    return other.name, DepthMap(depth, f"another room: {other.name}", "assumed", -endless, endless)


def with_geometry(room: Room, entry: object, folder: Path, where: str) -> Room:
    """The room with the geometry that an entry describes instead of its own, checked as if read with it.

    What follows from measurements is made from the room's present training measurements, and anew with others.

    Parameters
    ----------
    room : with measurements.
    entry, folder, where : as :func:`~haa_peft.geometry.sources.read_geometry` takes them.

    Raises
    ------
    InputError
        When the entry is wrong, or the geometry is not around the receiver and the positions.
    """
    fit = geometry_reader(entry, folder, where)
    shaped = dataclasses.replace(room, geometry=fit(room), fit=fit if follows_measurements(entry) else None)
    check_shape(where, shaped)
    return shaped
