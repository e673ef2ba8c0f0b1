"""Room adapters by name."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.adapters.methods import check_free
from haa_peft.checks import check_kind, check_whole
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import Geometry
from haa_peft.inference.asked import check_phase, check_phase_seed, check_positions, check_references
from haa_peft.inference.loaded import LoadedRoom, LoadedRooms, Measured
from haa_peft.inference.network import RoomNetwork
from haa_peft.inference.packs import damage_of
from haa_peft.model.checkpoint import check_device, check_single_precision, load_backbone
from haa_peft.model.phases import DIFFUSE, PHASES
from haa_peft.model.xrir import XRIR
from haa_peft.satellites import satellite
from haa_peft.store.names import on_hub, store_folder


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
        self._store = store
        self._phase = check_phase(phase)
        start = PHASES[0] if phase in (None, DIFFUSE) else phase
        self._networks = RoomNetwork(backbone, device, compiled=compiled, precision=precision, phase=start)
        if compiled and self._networks.base.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "cl"))):
            raise InputError("compiled=True needs a C++ compiler on a CPU; install one or leave it out")
        self._rooms = LoadedRooms(backbone, self._networks, store, most=max_loaded, merged=merged, allowed=allowed)
        self._room: LoadedRoom | None = None  # of threads that have not switched
        self._own = threading.local()
        self._maker = threading.current_thread()

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
            loaded, store_folder(store), device=device, max_loaded=max_loaded, merged=merged, precision=precision,
            compiled=compiled, phase=phase, allowed=allowed,
        )  # fmt: skip
        if on_hub(store) and not on_hub(name):
            name = f"{store}/{name}"
        if on_hub(name):
            name = predictor._rooms.pin(name)
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
        return np.stack([single.receiver for single in self._in_use.pack.at_receivers])

    @property
    def geometry(self) -> Geometry:
        """What is known of the shape of the room in use."""
        return self._in_use.pack.geometry

    @property
    def references(self) -> np.ndarray:
        """Positions (R, 3) m of the references of the room in use, of one receiver after the other."""
        return np.concatenate([single.positions for single in self._in_use.pack.at_receivers])

    def measured(self, receiver: ArrayLike | None = None) -> Measured:
        """What was measured in the room in use at a receiver (3,) m or of a number, as :meth:`predict` takes it."""
        return self._in_use.measured(receiver)

    @property
    def loaded(self) -> list[str]:
        """Names of the rooms in memory, the most recently used one last."""
        return self._rooms.names()

    @property
    def _in_use(self) -> LoadedRoom:
        room = getattr(self._own, "room", None) or self._room
        if room is None:
            raise InputError("no adapter is loaded; call switch(name)")
        return room

    def switch(self, name: str) -> None:
        """Use another adapter of the same backbone in this thread; if that fails, the former one stays in use."""
        self._own.room = room = self._rooms.load(name)
        if threading.current_thread() is self._maker:
            self._room = room
        self._forget()

    def prefetch(self, names: Sequence[str], *, pinned: bool = False) -> None:
        """Have rooms in memory before they are asked for; the room in use stays.

        Parameters
        ----------
        names : of adapters.
        pinned : whether they stay in memory from now on, of ``max_loaded`` rooms that are kept.

        Raises
        ------
        InputError
            As :meth:`load`, and when more rooms are pinned than are kept.
        """
        check_kind("names", names, (list, tuple), "a list of adapters' names")
        check_kind("pinned", pinned, bool, "True or False")
        self._rooms.prefetch(names, pinned=pinned)
        self._forget()

    def _forget(self) -> None:
        self._rooms.forget(getattr(self._own, "room", None), self._room)

    def close(self) -> None:
        """Forget all rooms, in every thread."""
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
        samples = self._in_use.samples(self._extent(sample_rate, length, seed))
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
        room = self._in_use
        number = room.number(receiver)
        pack, _ = room.at_receivers[number]
        positions = check_positions(pack, positions_xyz)
        k = check_references(pack, k)
        extent = self._extent(sample_rate, length, seed)
        if extent is not None:
            extent.note_missing(pack)
        return self._networks.turns.each(self._stream(room, number, positions, k, seed, extent), len(positions))

    def _stream(
        self, room: LoadedRoom, number: int, positions: np.ndarray, k: int, seed: int, extent: Any
    ) -> Iterator[np.ndarray]:
        (pack, encoded), start = room.at_receivers[number], 0
        with damage_of(pack.name):
            for rirs in self._networks.stream(encoded, positions - pack.receiver, k, seed):
                yield room.finished(number, positions[start : start + len(rirs)], rirs, k, extent)
                start += len(rirs)

    def _extent(self, sample_rate: int | None, length: str | float | None, seed: int) -> Any:
        """How RIRs are wanted (:class:`haa_peft.rendering.extent.Extent`); None where they are as modelled."""
        check_phase_seed(seed)
        if sample_rate is None and length is None and self._phase != DIFFUSE:
            return None
        rendering = satellite("rendering", "another sample rate, a length or a diffuse field")
        return rendering.Extent(sample_rate, length, self._phase, seed)

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
        pack, room = entry.at_receivers[entry.number(receiver)]
        check_phase_seed(seed)
        maps = satellite("maps", "predict_left_out")
        with damage_of(pack.name):
            return maps.predict_left_out(self._networks, room, check_references(pack, k), seed)

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
        extent = self._extent(sample_rate, length, seed)
        serving = satellite("serving", "predict_many")
        return serving.predict_in_rooms(self._networks, self._rooms, self._forget, requests, k, seed, extent)
