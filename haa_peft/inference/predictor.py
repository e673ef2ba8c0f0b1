"""Room adapters by name."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.adapters.methods import check_free
from haa_peft.adapters.weights import RoomWeights
from haa_peft.checks import check_kind, check_whole
from haa_peft.errors import InputError
from haa_peft.files import read_plain
from haa_peft.geometry.panorama import Geometry
from haa_peft.inference.extent import LateField, check_extent, check_phase, late_fields_of, note_missing, samples_of
from haa_peft.inference.left_out import predict_left_out
from haa_peft.inference.network import RoomNetwork
from haa_peft.inference.packs import (
    check_allowed,
    check_asked,
    check_backbone,
    check_finite_rirs,
    check_positions,
    check_prepared,
    check_references,
    damage_of,
    levels_of,
    load_parent,
    receiver_number,
    resolve,
    tensors_of,
    weights_of,
)
from haa_peft.levels.room import RoomLevels
from haa_peft.model.checkpoint import check_device, check_single_precision, fingerprint, load_backbone
from haa_peft.model.phases import DIFFUSE, PHASES
from haa_peft.model.predict import choose_targets, positions_at_once
from haa_peft.model.tensors import Asked, EncodedRoom
from haa_peft.model.xrir import XRIR
from haa_peft.satellites import satellite
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, on_hub, store_folder
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import CARD, LARGEST_BYTES


class Measured(NamedTuple):
    """Of a receiver (3,) m: positions (R, 3) m in room coordinates, RIRs (R, 9600) there, levels.

    RIRs are in units of the predictor's ``scale``; levels are what predictions are given, None without.
    """

    receiver: np.ndarray
    positions: np.ndarray
    rirs: np.ndarray
    levels: RoomLevels | None


class _View(NamedTuple):
    """At a receiver: a pack but for its tensors, and the room as encoded."""

    pack: RoomPack
    room: EncodedRoom


@dataclass(frozen=True, eq=False)
class _Entry:
    """Of the rooms in memory: what is known at each receiver, and the card as it was stored then."""

    views: tuple[_View, ...]
    state: bytes | None

    @property
    def pack(self) -> RoomPack:
        """The whole pack but for its tensors, at the first receiver."""
        return self.views[0].pack

    @cached_property
    def late(self) -> tuple[LateField, ...]:
        """What predictions at each receiver are continued from at other rates and lengths."""
        return late_fields_of([view.pack for view in self.views])

    def number(self, receiver: object) -> int:
        """Of a receiver, as :func:`~haa_peft.inference.packs.receiver_number` takes it."""
        return receiver_number(self.pack, receiver)


class _Part(NamedTuple):
    """Of a batch: a room and targets in it, at which of its receivers, their positions (n, 3) m, where RIRs go."""

    asked: Asked
    entry: _Entry
    number: int
    positions: np.ndarray
    answer: np.ndarray

    @property
    def k(self) -> int:
        """References of each target."""
        return self.asked[1].references.shape[1]


class RoomPredictor:
    """RIRs anywhere in a room, from a pack loaded by name; needs no data set.

    The backbone is copied, so it can be trained on meanwhile. Rooms that were used stay in memory, up to
    ``max_loaded`` of them, the least recently used one leaving first; switching among them only changes which
    weights are meant. A room that was stored anew in the meantime is loaded again.

    Threads may share a predictor: on a CPU a call gives the same to the last bit whichever thread makes it.
    :meth:`switch` changes the room of the thread that calls it; threads that have not switched use the room of the
    thread that made the predictor. Where a pool decides which thread answers, name the rooms with
    :meth:`predict_many`.

    Attributes
    ----------
    name : of the adapter in use.
    sample_rate : Hz of the RIRs.
    scale : predictions times this are in the unit of the measurements.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        backbone: XRIR,
        store: Path,
        *,
        device: str | None = None,
        max_loaded: int = 32,
        merged: bool = False,
        precision: str = "float32",
        compiled: bool = False,
        phase: str | None = None,
        allowed: Collection[str] | None = None,
    ) -> None:
        check_kind("backbone", backbone, XRIR, "a network; load_backbone gives one")
        check_kind("store", store, Path, "a folder's path")
        check_single_precision()
        check_whole("max_loaded", max_loaded, 1)
        for what, value in (("merged", merged), ("compiled", compiled)):
            check_kind(what, value, bool, "True or False")
        check_kind("allowed", allowed, NoneType | list | tuple | set | frozenset, "a list of digests")
        for digest in allowed or ():
            check_kind("a digest in allowed", digest, str, "a text, as a card says it")
        check_device(device)
        check_free(backbone)
        self._store, self._max_loaded = store, max_loaded
        self._hub = ""  # the repository, at a commit, that names are of instead of the store
        self._fetched: dict[str, tuple[Path, AdapterName]] = {}
        self._fingerprint, self._origin = fingerprint(backbone), backbone.origin
        self._merged, self._allowed = merged, None if allowed is None else frozenset(allowed)
        self._phase = check_phase(phase)
        start = PHASES[0] if phase in (None, DIFFUSE) else phase
        self._networks = RoomNetwork(backbone, device, compiled=compiled, precision=precision, phase=start)
        if compiled and self._networks.base.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "cl"))):
            raise InputError("compiled=True needs a C++ compiler on a CPU; install one or leave it out")
        self._rooms: OrderedDict[str, _Entry] = OrderedDict()
        self._room: _Entry | None = None  # of threads that have not switched
        self._own = threading.local()
        self._maker = threading.current_thread()
        self._reading, self._lock = threading.Lock(), threading.Lock()  # a pack; which rooms are in memory

    @classmethod
    def load(
        cls,
        name: str,
        *,
        store: str | Path | None = None,
        backbone: XRIR | str | Path = "small",
        device: str | None = None,
        max_loaded: int = 32,
        merged: bool = False,
        precision: str = "float32",
        compiled: bool = False,
        phase: str | None = None,
        allowed: Collection[str] | None = None,
    ) -> RoomPredictor:
        """Load an adapter by name, such as ``hallway/panel1``.

        Parameters
        ----------
        name : ``room/configuration`` or ``room/configuration@variant``, or one on the Hugging Face Hub,
            ``hf://user/repository[@revision]/room/configuration``; :meth:`switch` then takes names in that
            repository, at the same commit.
        store : folder of adapters; ``$HAA_PEFT_STORE`` or ``./adapters`` unless given. Or a repository on the Hub,
            ``hf://user/repository``.
        backbone : the backbone that the adapter was made for, or what :func:`load_backbone` takes.
        device : such as ``"cuda"``; the backbone's unless given.
        max_loaded : rooms kept in memory.
        merged : add LoRA's products to a copy of the layers' weights when a room is loaded: fewer operations a
            query, at the memory of those layers for every loaded room.
        precision : of the encoders, ``float32`` or ``bfloat16``.
        compiled : compile the transformer's blocks with ``torch.compile``; rooms are then merged, and the first
            query takes long.
        phase : where a waveform's phase comes from: the aligned ``references``, ``random`` as in the published code, or
            the references until the room mixes and a ``diffuse`` field then. Unless given, ``references``, and
            ``diffuse`` where :meth:`predict` is asked for another rate, or for a length.
        allowed : digests of the packs that may be loaded, as their cards say; any unless given.

        Raises
        ------
        InputError
            When there is no such adapter, it is damaged, or it was made for another backbone.
        """
        check_kind("store", store, NoneType | str | Path, "a folder's path")
        loaded = backbone if isinstance(backbone, XRIR) else load_backbone(backbone)
        predictor = cls(
            loaded,
            store_folder(store),
            device=device,
            max_loaded=max_loaded,
            merged=merged,
            precision=precision,
            compiled=compiled,
            phase=phase,
            allowed=allowed,
        )
        if on_hub(store) and not on_hub(name):
            name = f"{store}/{name}"
        if on_hub(name):
            predictor._hub, name = satellite("hub", name).pin(name)
        predictor.switch(name)
        return predictor

    @property
    def name(self) -> str:
        """Name of the adapter in use."""
        return str(self._in_use.pack.name)

    @property
    def card(self) -> dict:
        """What the adapter in use says about itself."""
        return self._in_use.pack.card

    @property
    def scale(self) -> float:
        """Largest magnitude of the references as measured; predictions are in units of it."""
        return self._in_use.pack.scale

    @property
    def receivers(self) -> np.ndarray:
        """The fixed points (V, 3) of the room in use, m in room coordinates; mostly one."""
        return np.stack([view.receiver for view in self._in_use.pack.views])

    @property
    def geometry(self) -> Geometry:
        """What is known of the shape of the room in use."""
        return self._in_use.pack.geometry

    @property
    def references(self) -> np.ndarray:
        """Positions (R, 3) m of the references of the room in use, of one receiver after the other."""
        return np.concatenate([view.positions for view in self._in_use.pack.views])

    def measured(self, receiver: ArrayLike | None = None) -> Measured:
        """What was measured in the room in use at a receiver (3,) m or of a number, as :meth:`predict` takes it."""
        entry = self._in_use
        pack, room = entry.views[entry.number(receiver)]
        return Measured(pack.receiver, pack.positions, pack.rirs, room.levels)

    @property
    def loaded(self) -> list[str]:
        """Names of the rooms in memory, the most recently used one last."""
        with self._lock:
            return list(self._rooms)

    @property
    def _in_use(self) -> _Entry:
        entry = getattr(self._own, "room", None) or self._room
        if entry is None:
            raise InputError("no adapter is loaded; call switch(name)")
        return entry

    def switch(self, name: str) -> None:
        """Use another adapter of the same backbone in this thread; if that fails, the former one stays in use."""
        self._own.room = entry = self._load(name)
        if threading.current_thread() is self._maker:
            self._room = entry
        self._forget()

    def _load(self, name: str) -> _Entry:
        store, parsed = self._place(name)
        state = self._state(store, parsed)
        entry = self._known(name, state)
        if entry is not None:
            return entry
        with self._reading:  # once, however many threads wait for it
            state = self._state(store, parsed)  # before it is read: what is stored meanwhile is read the next time
            entry = self._known(name, state)
            if entry is None:
                views = self._read(store, parsed)
                digest = views[0].pack.card.get("digest", "").encode()
                entry = _Entry(views, state if state and digest in state else None)  # replaced in between: not kept
                with self._lock:
                    self._rooms[name] = entry
                    self._rooms.move_to_end(name)
        return entry

    def _place(self, name: str) -> tuple[Path, AdapterName]:
        """The store of an adapter and its name there; one on the Hub is fetched when it is first asked for."""
        if not on_hub(name) and not self._hub:
            return self._store, AdapterName.parse(name)
        address = name if on_hub(name) else f"{self._hub}/{AdapterName.parse(name)}"
        if address not in self._fetched:
            self._fetched[address] = satellite("hub", address).locate(address)
        return self._fetched[address]

    def _known(self, name: str, state: bytes | None) -> _Entry | None:
        """The room in memory, unless the store holds it in another state."""
        with self._lock:
            entry = self._rooms.get(name)
            if entry is None or entry.state != state or state is None:
                return None
            self._rooms.move_to_end(name)
            return entry

    def _forget(self) -> None:
        """Let the least recently used rooms go; those in use stay."""
        used = (getattr(self._own, "room", None), self._room)
        with self._lock:
            free = [name for name, entry in self._rooms.items() if all(entry is not other for other in used)]
            for name in free[: max(0, len(self._rooms) - self._max_loaded)]:
                del self._rooms[name]

    def _state(self, store: Path, name: AdapterName) -> bytes | None:
        """An entry's card, which tells one state from another: its digest is over all that predictions depend on."""
        try:
            return read_plain(name.folder(store) / CARD, LARGEST_BYTES[CARD])
        except OSError:
            return None

    def _read(self, store: Path, name: AdapterName) -> tuple[_View, ...]:
        base = self._networks.base
        with damage_of(name):
            pack = read_pack(store, name)
            check_backbone(pack, self._fingerprint, self._origin)
            check_allowed(pack, self._allowed)
            if pack.parent is not None:
                pack = resolve(pack, load_parent(store, pack, base), base)
            weights = weights_of(pack, base)
            if self._networks.compiled:
                weights = weights.complete(base)
            elif self._merged:
                weights = weights.with_merged(base)
            rooms = [self._encode(view, weights)._replace(levels=levels_of(view)) for view in pack.views]
        bare = [dataclasses.replace(view, tensors={}, prepared=None, levels=None) for view in pack.views]
        bare[0] = dataclasses.replace(bare[0], others=tuple(bare[1:]))
        return tuple(map(_View, bare, rooms))

    def _encode(self, pack: RoomPack, weights: RoomWeights) -> EncodedRoom:
        base = self._networks.base
        if pack.prepared is None:
            return self._networks.encode(weights, tensors_of(pack, base.device))
        prepared = EncodedRoom(
            rirs=torch.from_numpy(pack.rirs).to(base.device),
            positions=torch.from_numpy(pack.positions - pack.receiver).float().to(base.device),
            weights=weights,
            **{key: tensor.to(base.device) for key, tensor in pack.prepared.items()},
        )
        check_prepared(pack, prepared, base)
        return prepared

    def close(self) -> None:
        """Forget all rooms, in every thread."""
        with self._lock:
            self._rooms.clear()
            self._room, self._own = None, threading.local()

    @property
    def full_length(self) -> float:
        """Seconds that ``length="full"`` gives: until every octave has fallen by 60 dB at all receivers."""
        return self._in_use.late[0].full_s

    def predict(
        self, positions_xyz: ArrayLike, *, k: int | None = None, seed: int = 0, sample_rate: int | None = None,
        length: str | float | None = None, receiver: ArrayLike | None = None,
    ) -> np.ndarray:  # fmt: skip
        """RIRs between the room's receiver and positions.

        Parameters
        ----------
        positions_xyz : (N, 3) or (3,) metres in room coordinates.
        receiver : of several, which: its number in :attr:`receivers`, or its place (3,) m.
        k : how many of the nearest references to use; as in training unless given.
        seed : of the starting phase where that is random, and of the diffuse field.
        sample_rate : Hz; 22 050 unless given.
        length : seconds, or ``"full"`` for as long as the room rings; what is modelled, 0.435 s, unless given.

        Returns
        -------
        (N, T) float32 in units of :attr:`scale`; (N, 9600) at 22 050 Hz unless rate or length is given.

        Raises
        ------
        InputError
            For positions that are not finite, outside the room or at the receiver, for other rates and lengths, and
            where it is not clear at which receiver, or nothing was measured there.
        """
        parts = list(
            self.stream(positions_xyz, k=k, seed=seed, sample_rate=sample_rate, length=length, receiver=receiver)
        )
        if parts:
            return np.concatenate(parts)
        modelled = sample_rate is None and length is None
        samples = RIR_LENGTH if modelled else samples_of(sample_rate, length, self._in_use.late[0])
        return np.zeros((0, samples), dtype=np.float32)

    def stream(
        self, positions_xyz: ArrayLike, *, k: int | None = None, seed: int = 0, sample_rate: int | None = None,
        length: str | float | None = None, receiver: ArrayLike | None = None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """As :meth:`predict`, some positions after the other: (n, T) arrays whose memory can be let go.

        Parameters
        ----------
        positions_xyz : (N, 3) or (3,) metres in room coordinates.
        k, seed, sample_rate, length, receiver : as for :meth:`predict`.
        """
        entry = self._in_use
        number = entry.number(receiver)
        pack, room = entry.views[number]
        positions = check_positions(pack, positions_xyz)
        k = check_references(pack, k)
        check_asked(seed)
        check_extent(sample_rate, length)
        note_missing(pack, sample_rate, length)
        parts = self._stream(pack, room, positions, k, seed)
        if self._as_modelled(sample_rate, length):
            return parts
        return self._rendered(entry, number, positions, parts, k, seed, sample_rate, length)

    def _stream(
        self, pack: RoomPack, room: EncodedRoom, positions: np.ndarray, k: int, seed: int
    ) -> Iterator[np.ndarray]:
        start = 0
        with damage_of(pack.name):
            for rirs in self._networks.stream(room, positions - pack.receiver, k, seed):
                yield check_finite_rirs(pack.name, positions[start : start + len(rirs)], rirs)
                start += len(rirs)

    def _as_modelled(self, sample_rate: int | None, length: str | float | None) -> bool:
        """Whether an answer is what the network predicts, as it is."""
        return sample_rate in (None, SAMPLE_RATE) and length is None and self._phase != DIFFUSE

    def _rendered(
        self, entry: _Entry, number: int, positions: np.ndarray, parts: Iterator[np.ndarray], k: int, seed: int,
        sample_rate: int | None, length: str | float | None,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """What the network predicts, at another rate and length or with a diffuse late field."""
        late, name, start = entry.late[number], entry.pack.name, 0
        asked = {"sample_rate": sample_rate or SAMPLE_RATE, "samples": samples_of(sample_rate, length, late)}
        diffuse, continued = self._phase in (None, DIFFUSE), length is not None
        with damage_of(name):
            for rirs in parts:
                places = positions[start : start + len(rirs)]
                found = late.render(rirs, places, k, **asked, diffuse=diffuse, seed=seed, continued=continued)
                yield check_finite_rirs(name, places, np.stack(list(found)))
                start += len(rirs)

    def predict_metrics(
        self, positions_xyz: ArrayLike, metrics: Sequence[str] = ("c50",), band: str = "broadband", **more: Any
    ) -> dict:
        """C50, EDT and others (N,) at positions, and their standard deviations (N,), by metric.

        Parameters
        ----------
        positions_xyz, metrics, band, more : as :func:`haa_peft.maps.field.predict_metrics` takes them.
        """
        return satellite("maps", "predict_metrics").predict_metrics(self, positions_xyz, metrics, band, **more)

    def auralise(self, dry: ArrayLike, rate: int, position_or_path: ArrayLike, **more: Any) -> np.ndarray:
        """A dry sound in the room in use, (C, N + T - 1) float32, where T is the length of its RIRs.

        Parameters
        ----------
        dry, rate, position_or_path, more : as :func:`haa_peft.listening.in_room.stream` takes them; (N,) samples,
            Hz, and (3,) m or rows (P, 4 to 6) of a path.
        """
        return satellite("listening", "auralise").auralise(self, dry, rate, position_or_path, **more)

    def predict_left_out(
        self, *, k: int | None = None, seed: int = 0, receiver: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) of what is :meth:`measured`, up to 32, and RIRs (n, 9600) there, each predicted from the others.

        ``k``, ``seed`` and ``receiver`` are as for :meth:`predict`.
        """
        entry = self._in_use
        pack, room = entry.views[entry.number(receiver)]
        check_asked(seed)
        with damage_of(pack.name):
            return predict_left_out(self._networks, room, check_references(pack, k), seed)

    def predict_many(
        self, requests: Sequence[tuple], *, k: int | None = None, seed: int = 0, sample_rate: int | None = None,
        length: str | float | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """RIRs in several rooms, computed in common batches.

        Parameters
        ----------
        requests : (name, positions) or (name, positions, receiver), as for :meth:`predict`; names may repeat. The room
            in use stays.
        k, seed, sample_rate, length : as for :meth:`predict`; a full length is each room's own.

        Returns
        -------
        For each request (N, T) float32 in units of its room's ``scale``, to rounding as :meth:`predict` gives it.

        Raises
        ------
        InputError
            As :meth:`predict`, and for requests that are no such pairs.
        """
        check_asked(seed, requests)
        check_extent(sample_rate, length)
        as_modelled = self._as_modelled(sample_rate, length)
        answers: list[np.ndarray] = [np.empty(0)] * len(requests)
        batch: list[_Part] = []
        # one room after the other, so that each is loaded once however many there are
        first = {request[0]: i for i, request in reversed(list(enumerate(requests)))}
        for i in sorted(range(len(requests)), key=lambda i: first[requests[i][0]]):
            name, positions_xyz, *receiver = requests[i]
            entry = self._load(name)
            number = entry.number(receiver[0] if receiver else None)
            pack, room = entry.views[number]
            positions, references = check_positions(pack, positions_xyz), check_references(pack, k)
            note_missing(pack, sample_rate, length)
            rooms = {id(part.asked[0]) for part in batch} | {id(room)}
            if batch and (len(rooms) > self._max_loaded or batch[0].k != references):
                self._fill(batch, seed, sample_rate, length)
            samples = RIR_LENGTH if as_modelled else samples_of(sample_rate, length, entry.late[number])
            answers[i] = np.empty((len(positions), samples), dtype=np.float32)
            at_once = positions_at_once(self._networks.base.device, references)
            start = 0
            while start < len(positions):
                free = at_once - sum(len(part.positions) for part in batch)
                if free <= 0:
                    self._fill(batch, seed, sample_rate, length)
                    continue
                rows = slice(start, min(len(positions), start + free))
                asked = room, choose_targets(room, positions[rows] - pack.receiver, references)
                batch.append(_Part(asked, entry, number, positions[rows], answers[i][rows]))
                start = rows.stop
        self._fill(batch, seed, sample_rate, length)
        return answers

    def _fill(self, batch: list[_Part], seed: int, sample_rate: int | None, length: str | float | None) -> None:
        """Compute a batch, write RIRs where they belong, and empty it."""
        if batch:
            ends = np.cumsum([len(part.positions) for part in batch])
            every = np.split(self._networks.rirs([part.asked for part in batch], seed), ends[:-1])
            for (_, entry, number, where, answer), rirs in zip(batch, every, strict=True):
                found = check_finite_rirs(entry.pack.name, where, rirs)
                if not self._as_modelled(sample_rate, length):
                    parts, k = iter([found]), batch[0].k
                    (found,) = self._rendered(entry, number, where, parts, k, seed, sample_rate, length)
                answer[:] = found
        batch.clear()
        self._forget()
