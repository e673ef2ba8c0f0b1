"""A room pack: an adapter with all that inference by name needs, and no data set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from haa_peft.acoustics.sampling import RIR_LENGTH
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import DepthMap, Geometry, without_channels
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.recordings import LONGEST_S, Recordings
from haa_peft.rooms.room import Room, together
from haa_peft.store.card import SCHEMA
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, RECORDINGS, ROOM, damaged

if TYPE_CHECKING:
    from torch import Tensor

SEEN = ("depth", "normals", "materials")
"""Arrays of a depth map, as far as it has them."""
PREPARATION = 1
"""Counts up when what a prepared room holds, or how it is computed, changes; older ones are then prepared again."""

MOST_SURFACES = 128
"""Of a room; more take seconds to render."""
LARGEST = {"rirs": 1e3, "positions": 1e4, "receiver": 1e4, "depth": 1e4}
"""Of what is stored, in magnitude; RIRs are divided by the loudest, the others are metres."""
QUIETEST = 1e-3
"""Loudest of the references."""
SCALES = (1e-9, 1e9)
RATES = (8_000, 384_000)
"""Hz, of recordings."""


@dataclass(frozen=True)
class RoomPack:
    """Adapter, references, geometry and card of one configuration.

    Attributes
    ----------
    name : the adapter's name.
    config, tensors : the adapter, as ``adapter_config.json`` and ``adapter_model.safetensors`` hold it.
    rirs : (R, 9600) float32 references at 22 050 Hz, divided by ``scale``.
    positions : (R, 3) metres in room coordinates.
    receiver : (3,) metres in room coordinates.
    geometry : the room's planes, or the depth map around its receiver.
    scale : the largest magnitude of the references as measured.
    card : what ``card.json`` says.
    prepared : the references and the panorama as the adapted backbone encodes them (the fields of
        :class:`~haa_peft.model.tensors.EncodedRoom` that are not stored anyway), so that loading encodes nothing;
        packs without it are prepared when they are loaded.
    prepared_from : the :meth:`digest` of what it was prepared from; with any other it is not stored.
    channels : what the panorama shows of surfaces beside their coordinates.
    levels : what :class:`~haa_peft.model.tensors.Levels` keep of the room's levels; None where there are none.
    recordings : its own references at the rate and length at which they were recorded; None where they are not kept.
    others : the same adapter at the room's other receivers, with what was measured there; none where there is one.
    """

    name: AdapterName
    config: dict
    tensors: dict[str, Tensor]
    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    geometry: Geometry
    scale: float
    card: dict
    prepared: dict[str, Tensor] | None = None
    prepared_from: str = ""
    channels: tuple[str, ...] = ()
    levels: dict[str, Tensor] | None = None
    recordings: Recordings | None = None
    others: tuple[RoomPack, ...] = ()

    @classmethod
    def of_room(
        cls,
        name: AdapterName,
        room: Room,
        config: dict,
        tensors: dict[str, Tensor],
        card: dict,
        levels: Sequence[dict[str, Tensor]] = (),
        recordings: Sequence[Recordings] = (),
    ) -> RoomPack:
        """Pack an adapter with its room's training measurements as references, of all receivers.

        Parameters
        ----------
        name : of the adapter.
        room : with its measurements and geometry.
        config, tensors : the adapter.
        card : what ``card.json`` says besides schema and name.
        levels, recordings : at each receiver, as the attributes; none where there are none.
        """
        others = [cls.of_room(name, single, config, tensors, card, levels[i : i + 1], recordings[i : i + 1])
                  for i, single in enumerate(room.others, 1)]  # fmt: skip
        train = room.splits["train"]
        kept = {}
        if recordings:
            size = sum(one.rirs.nbytes for one in recordings)
            kept = {"recordings": {**recordings[0].describe(), "bytes": size}}
        return cls(
            name,
            config,
            tensors,
            room.rirs[train],
            room.positions[train],
            room.receiver,
            without_channels(room.geometry, room.channels),
            room.scale,
            {"schema": SCHEMA, "name": str(name), **card, **kept},
            channels=room.channels,
            levels=levels[0] if levels else None,
            recordings=recordings[0] if recordings else None,
            others=tuple(others),
        )

    @property
    def at_receivers(self) -> tuple[RoomPack, ...]:
        """The pack at each of its receivers, one after the other."""
        return (dataclasses.replace(self, others=()), *self.others) if self.others else (self,)

    def with_adapter(self, config: dict, tensors: dict[str, Tensor]) -> RoomPack:
        """The pack with another adapter, at all of its receivers."""
        others = tuple(single.with_adapter(config, tensors) for single in self.others)
        return dataclasses.replace(self, config=config, tensors=tensors, others=others)

    def as_room(self) -> Room:
        """What was measured of its room, all as training measurements; what it borrowed itself is left out."""
        if self.others:
            return together([single.as_room() for single in self.at_receivers])
        about = self.card["room"]
        count = len(self.positions) - about.get("borrowed", 0)
        room, _, configuration = str(about["name"]).partition("/")
        splits = {"train": np.arange(count), "valid": np.array([], int), "test": np.array([], int)}
        arrays = (self.rirs[:count], self.positions[:count], self.receiver, self.geometry, splits, self.scale)
        origin = str(about.get("source")), str(about.get("licence"))
        return Room(room, configuration, *arrays, *origin, channels=self.channels)

    @property
    def parent(self) -> tuple[str, str] | None:
        """Name and :meth:`adapter_digest` of the adapter that this one lies on top of, if any."""
        below = self.card.get("parent")
        return None if below is None else (str(below["name"]), str(below["digest"]))

    def adapter_digest(self) -> str:
        """SHA-256 of the adapter and the backbone that it is for, and of what lies below it."""
        about = [self.card["backbone"]["fingerprint"], json.dumps(self.config, sort_keys=True), *(self.parent or ())]
        return _digest(about, {name: tensor.float().numpy() for name, tensor in self.tensors.items()})

    def digest(self) -> str:
        """SHA-256 of all that a prepared room follows from: backbone, adapter, references and geometry."""
        about = [str(PREPARATION), self.adapter_digest(), json.dumps(self.geometry.to_json()), *self.channels]
        return _digest(about, {"receiver": self.receiver, **self.references()})

    def references(self) -> dict[str, np.ndarray]:
        """The arrays that are kept as tensors: RIRs (R, 9600), positions (R, 3) and those of a depth map (H, W)."""
        seen = {name: getattr(self.geometry, name) for name in SEEN if isinstance(self.geometry, DepthMap)}
        seen = {name: array for name, array in seen.items() if array is not None}
        return {"rirs": self.rirs.astype(np.float32), "positions": self.positions.astype(np.float64), **seen}

    def check(self) -> None:
        """Raise ``InputError`` unless references, geometry and card are such as measurements give."""
        count = len(self.rirs)
        if self.rirs.shape != (count, RIR_LENGTH) or self.positions.shape != (count, 3) or self.receiver.shape != (3,):
            raise InputError(
                f"{self.name}: references are {self.rirs.shape} at {self.positions.shape} "
                f"but must be (R, {RIR_LENGTH}) at (R, 3)"
            )
        numbers: dict[str, np.ndarray] = {"rirs": self.rirs, "positions": self.positions, "receiver": self.receiver}
        if count == 0 or not all(np.isfinite(values).all() for values in (*numbers.values(), np.array(self.scale))):
            raise damaged(self.name, "references or scale are missing or not finite")
        if isinstance(self.geometry, DepthMap):
            numbers["depth"] = self.geometry.depth
        for what, values in numbers.items():
            largest = np.abs(values).max()
            if not largest <= LARGEST[what]:
                raise damaged(self.name, f"{what} are up to {largest:.3g} but must be within {LARGEST[what]:g}")
        loudest = np.abs(self.rirs).max()
        if not loudest >= QUIETEST or not SCALES[0] <= self.scale <= SCALES[1]:
            raise damaged(
                self.name,
                f"the loudest reference is {loudest:.3g} and the scale {self.scale:.3g}, "
                f"but at least {QUIETEST:g} and from {SCALES[0]:g} to {SCALES[1]:g} make sense",
            )
        if isinstance(self.geometry, Surfaces):
            check_surfaces(self.geometry, f"{self.name}: {ROOM}")
        borrowed = self.card["room"].get("borrowed", 0)
        if type(borrowed) is not int or not 0 <= borrowed < count:
            raise damaged(self.name, f"{CARD} has no valid room.borrowed")
        if self.recordings is not None:
            _check_recordings(f"{self.name}: {RECORDINGS}", self.recordings, count - borrowed)
        if "materials" in self.channels and self.geometry.materials is None:
            raise damaged(self.name, f"{ROOM} has no materials, which it reads")
        low, high = self.geometry.bounds()
        if (self.receiver < low).any() or (self.receiver > high).any():
            raise damaged(self.name, f"{ROOM} has its receiver outside the room")
        for single in self.others:
            single.check()


def _check_recordings(where: str, recordings: Recordings, count: int) -> None:
    """Raise ``InputError`` unless there are ``count`` recordings that make sense."""
    rirs, rate, (low, high) = recordings.rirs, recordings.sample_rate, RATES
    fits = rirs.ndim == 2 and len(rirs) == count and 0 < rirs.shape[1] <= (LONGEST_S + 1) * rate
    if not fits or not low <= rate <= high:
        wanted = f"({count}, T) of at most {LONGEST_S:g} s at {low} to {high} Hz"
        raise damaged(where, f"has RIRs {rirs.shape} at {rate} Hz but must have {wanted}")
    if not np.abs(rirs).max() <= LARGEST["rirs"]:
        raise damaged(where, f"is not within {LARGEST['rirs']:g}")


def check_surfaces(surfaces: Sized, where: str) -> None:
    """Raise ``InputError``, which begins with ``where``, for more surfaces than are read."""
    if len(surfaces) > MOST_SURFACES:
        raise InputError(
            f"{where}: has {len(surfaces)} surfaces but at most {MOST_SURFACES} are read; "
            "leave out small ones, or give a mesh"
        )


def _digest(texts: list[str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256("|".join(texts).encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"|{name}|{values.shape}|".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
