"""Several rooms at once: targets of all of them in common batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from haa_peft.checks import check_kind
from haa_peft.errors import InputError
from haa_peft.inference.asked import check_positions, check_references
from haa_peft.inference.loaded import LoadedRoom, LoadedRooms
from haa_peft.inference.network import RoomNetwork
from haa_peft.model.predict import choose_targets, positions_at_once
from haa_peft.model.tensors import Asked
from haa_peft.store.names import AdapterName, on_hub


class Part(NamedTuple):
    """Of a batch: a room and targets in it, at which of its receivers, their positions (n, 3) m, where RIRs go."""

    asked: Asked
    room: LoadedRoom
    number: int
    positions: np.ndarray
    answer: np.ndarray

    @property
    def k(self) -> int:
        """References of each target."""
        return self.asked[1].references.shape[1]


def check_requests(requests: Sequence[tuple]) -> None:
    """Raise ``InputError`` unless each is a name and positions (N, 3) m, and perhaps a receiver."""
    check_kind("requests", requests, (tuple, list), "a list of pairs of a name and positions")
    for request in requests:
        check_kind("a request", request, (tuple, list), "a pair of a name and positions")
        if len(request) not in (2, 3):
            raise InputError(f"a request is {request!r:.60} but must be a pair of a name and positions")
        if not on_hub(request[0]):
            AdapterName.parse(request[0])


def predict_in_rooms(
    network: RoomNetwork, rooms: LoadedRooms, forget: Callable[[], None], requests: Sequence[tuple], k: int | None,
    seed: int, extent: Any,
) -> list[np.ndarray]:  # fmt: skip
    """RIRs of every request, (N, T) float32 each.

    Parameters
    ----------
    network, rooms : that predicts, and what it predicts in.
    forget : lets rooms go that are not in use.
    requests : as :func:`check_requests` allows them.
    k : references of each target; as in training unless given.
    seed : of a random phase.
    extent : how RIRs are wanted, as for :meth:`~haa_peft.inference.loaded.LoadedRoom.samples`.

    Raises
    ------
    InputError
        When a room cannot be loaded, or does not have what is asked of it.
    """
    check_requests(requests)
    answers: list[np.ndarray] = [np.empty(0)] * len(requests)
    batch: list[Part] = []

    def fill() -> None:
        if batch:
            _fill(network, batch, seed, extent)
            batch.clear()
        forget()

    # one room after the other, so that each is loaded once however many there are
    first = {request[0]: i for i, request in reversed(list(enumerate(requests)))}
    for i in sorted(range(len(requests)), key=lambda i: first[requests[i][0]]):
        name, positions_xyz, *receiver = requests[i]
        room = rooms.load(name)
        number = room.number(receiver[0] if receiver else None)
        pack, encoded = room.at_receivers[number]
        positions, references = check_positions(pack, positions_xyz), check_references(pack, k)
        if extent is not None:
            extent.note_missing(pack)
        together = {id(part.asked[0]) for part in batch} | {id(encoded)}
        if batch and (len(together) > rooms.most or batch[0].k != references):
            fill()
        answers[i] = np.empty((len(positions), room.samples(extent)), dtype=np.float32)
        at_once, start = positions_at_once(network.base.device, references), 0
        while start < len(positions):
            free = at_once - sum(len(part.positions) for part in batch)
            if free <= 0:
                fill()
                continue
            rows = slice(start, min(len(positions), start + free))
            asked = encoded, choose_targets(encoded, positions[rows] - pack.receiver, references)
            batch.append(Part(asked, room, number, positions[rows], answers[i][rows]))
            start = rows.stop
    fill()
    return answers


def _fill(network: RoomNetwork, batch: Sequence[Part], seed: int, extent: Any) -> None:
    """Compute a batch, and write RIRs where they belong."""
    ends = np.cumsum([len(part.positions) for part in batch])
    with network.turns.of(ends[-1]):
        every = np.split(network.rirs([part.asked for part in batch], seed), ends[:-1])
        for part, rirs in zip(batch, every, strict=True):
            part.answer[:] = part.room.finished(part.number, part.positions, rirs, part.k, extent)
