"""Rooms of a store in memory, each as the store holds it now."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from haa_peft.acoustics.sampling import RIR_LENGTH
from haa_peft.adapters.weights import RoomWeights
from haa_peft.errors import InputError
from haa_peft.files import read_plain
from haa_peft.inference.asked import check_finite_rirs, receiver_number
from haa_peft.inference.network import RoomNetwork
from haa_peft.inference.packs import (
    check_allowed,
    check_backbone,
    check_prepared,
    damage_of,
    levels_of,
    load_parent,
    resolve,
    tensors_of,
    weights_of,
)
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.tensors import EncodedRoom
from haa_peft.model.xrir import XRIR
from haa_peft.satellites import satellite
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, on_hub
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import CARD, LARGEST_BYTES


class Measured(NamedTuple):
    """Of a receiver (3,) m: positions (R, 3) m in room coordinates, RIRs (R, 9600) there, levels.

    RIRs are in units of the pack's scale; levels are what predictions are given, None without.
    """

    receiver: np.ndarray
    positions: np.ndarray
    rirs: np.ndarray
    levels: Any


AtReceiver = tuple[RoomPack, EncodedRoom]
"""A pack but for its tensors, and the room as encoded."""


@dataclass(frozen=True, eq=False)
class LoadedRoom:
    """What is known at each receiver, and the card as it was stored then."""

    at_receivers: tuple[AtReceiver, ...]
    state: bytes | None

    @property
    def pack(self) -> RoomPack:
        """The whole pack but for its tensors, at the first receiver."""
        return self.at_receivers[0][0]

    @cached_property
    def late(self) -> tuple[Any, ...]:
        """What continues predictions at each receiver, :class:`haa_peft.rendering.render.Renderer`."""
        rendering = satellite("rendering", "another sample rate, a length or a diffuse field")
        return rendering.late_fields([pack for pack, _ in self.at_receivers])

    def samples(self, extent: Any) -> int:
        """Of an RIR as it is wanted (:class:`haa_peft.rendering.extent.Extent`), or as modelled for None."""
        return RIR_LENGTH if extent is None else extent.samples(self)

    def finished(self, number: int, positions: np.ndarray, rirs: np.ndarray, k: int, extent: Any) -> np.ndarray:
        """Predictions as they are wanted, (N, T) float32; raises ``InputError`` where one is not finite.

        Parameters
        ----------
        number : of the receiver.
        positions : (N, 3) m in room coordinates.
        rirs : (N, 9600) predicted there, from ``k`` references each.
        k : see ``rirs``.
        extent : as for :meth:`samples`.
        """
        rirs = check_finite_rirs(self.pack.name, positions, rirs)
        return rirs if extent is None else extent.finished(self, number, positions, rirs, k)

    def measured(self, receiver: object) -> Measured:
        """What was measured at a receiver."""
        pack, room = self.at_receivers[self.number(receiver)]
        return Measured(pack.receiver, pack.positions, pack.rirs, room.levels)

    def number(self, receiver: object) -> int:
        """Of a receiver, as :func:`~haa_peft.inference.asked.receiver_number` takes it."""
        return receiver_number(self.pack, receiver)


class LoadedRooms:
    """Rooms by name, loaded when they are asked for, and again when they were stored anew. Threads may share it.

    Parameters
    ----------
    backbone : that adapters must be made for.
    network : its copy, by which rooms are encoded.
    store : folder of adapters.
    most : rooms that :meth:`forget` leaves.
    merged, allowed : as :meth:`RoomPredictor.load <haa_peft.inference.predictor.RoomPredictor.load>` takes them.
    """

    def __init__(
        self, backbone: XRIR, network: RoomNetwork, store: Path, *, most: int, merged: bool,
        allowed: Collection[str] | None,
    ) -> None:  # fmt: skip
        self.most = most
        self._made_for, self._network, self._store = (fingerprint(backbone), backbone.origin), network, store
        self._merged, self._allowed = merged, None if allowed is None else frozenset(allowed)
        self._hub = ""  # the repository, at a commit, that names are of instead of the store
        self._fetched: dict[str, tuple[Path, AdapterName]] = {}
        self._rooms: OrderedDict[str, LoadedRoom] = OrderedDict()
        self._pinned: set[str] = set()
        self._reading, self._lock = threading.Lock(), threading.Lock()  # a pack; which rooms are in memory

    def names(self) -> list[str]:
        """Of the rooms in memory, the most recently used one last."""
        with self._lock:
            return list(self._rooms)

    def pin(self, name: str) -> str:
        """Take names from now on in the repository of this one on the Hub, at its present commit; the name there."""
        self._hub, name = satellite("hub", name).pin(name)
        return name

    def load(self, name: str) -> LoadedRoom:
        """A room by its adapter's name; ``InputError`` if it is not there, damaged, or of another backbone."""
        store, parsed = self._place(name)
        state = _state(store, parsed)
        room = self._known(name, state)
        if room is not None:
            return room
        with self._reading:  # once, however many threads wait for it
            state = _state(store, parsed)  # before it is read: what is stored meanwhile is read the next time
            room = self._known(name, state)
            if room is None:
                at_receivers = self._read(store, parsed)
                digest = at_receivers[0][0].card.get("digest", "").encode()
                room = LoadedRoom(
                    at_receivers, state if state and digest in state else None
                )  # replaced in between: not kept
                with self._lock:
                    self._rooms[name] = room
                    self._rooms.move_to_end(name)
        return room

    def prefetch(self, names: Sequence[str], *, pinned: bool) -> None:
        """Load rooms; those that are ``pinned`` are never forgotten. ``InputError`` if that are more than ``most``."""
        for name in names:
            if not on_hub(name):
                AdapterName.parse(name)
        if pinned and len(self._pinned | set(names)) > self.most:
            count = len(self._pinned | set(names))
            raise InputError(f"{count} rooms are to be pinned but max_loaded is {self.most}; raise it")
        for name in names:
            self.load(name)
            self._pinned |= {name} if pinned else set()

    def forget(self, *used: LoadedRoom | None) -> None:
        """Let the least recently used rooms go, those above ``most``; those in use stay."""
        with self._lock:
            free = [name for name, room in self._rooms.items()
                    if name not in self._pinned and all(room is not other for other in used)]  # fmt: skip
            for name in free[: max(0, len(self._rooms) - self.most)]:
                del self._rooms[name]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._rooms.clear()
            self._pinned.clear()

    def _place(self, name: str) -> tuple[Path, AdapterName]:
        """The store of an adapter and its name there; one on the Hub is fetched when it is first asked for."""
        if not on_hub(name) and not self._hub:
            return self._store, AdapterName.parse(name)
        address = name if on_hub(name) else f"{self._hub}/{AdapterName.parse(name)}"
        if address not in self._fetched:
            self._fetched[address] = satellite("hub", address).locate(address)
        return self._fetched[address]

    def _known(self, name: str, state: bytes | None) -> LoadedRoom | None:
        """The room in memory, unless the store holds it in another state."""
        with self._lock:
            room = self._rooms.get(name)
            if room is None or room.state != state or state is None:
                return None
            self._rooms.move_to_end(name)
            return room

    def _read(self, store: Path, name: AdapterName) -> tuple[AtReceiver, ...]:
        base = self._network.base
        with damage_of(name):
            pack = read_pack(store, name)
            check_backbone(pack, *self._made_for)
            check_allowed(pack, self._allowed)
            if pack.parent is not None:
                pack = resolve(pack, load_parent(store, pack, base), base)
            weights = weights_of(pack, base)
            if self._network.compiled:
                weights = weights.complete(base)
            elif self._merged:
                weights = weights.with_merged(base)
            rooms = [self._encode(single, weights)._replace(levels=levels_of(single)) for single in pack.at_receivers]
        bare = [dataclasses.replace(single, tensors={}, prepared=None, levels=None) for single in pack.at_receivers]
        bare[0] = dataclasses.replace(bare[0], others=tuple(bare[1:]))
        return tuple(zip(bare, rooms, strict=True))

    def _encode(self, pack: RoomPack, weights: RoomWeights) -> EncodedRoom:
        base = self._network.base
        if pack.prepared is None:
            return self._network.encode(weights, tensors_of(pack, base.device))
        prepared = EncodedRoom(
            rirs=torch.from_numpy(pack.rirs).to(base.device),
            positions=torch.from_numpy(pack.positions - pack.receiver).float().to(base.device),
            weights=weights,
            **{key: tensor.to(base.device) for key, tensor in pack.prepared.items()},
        )
        check_prepared(pack, prepared, base)
        return prepared


def _state(store: Path, name: AdapterName) -> bytes | None:
    """An entry's card, which tells one state from another: its digest is over all that predictions depend on."""
    try:
        return read_plain(name.folder(store) / CARD, LARGEST_BYTES[CARD])
    except OSError:
        return None
