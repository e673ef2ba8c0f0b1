"""Adapters of one backbone against it and the baselines, in one room."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.adapters.methods import Adapter
from haa_peft.errors import InputError
from haa_peft.evaluation.evaluate import baselines, evaluate
from haa_peft.model.phases import PHASES
from haa_peft.model.predict import References, nearest_references, predict_rirs
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import NEAREST, Room
from haa_peft.store.pack import RoomPack


@dataclass(frozen=True)
class Candidate:
    """An adapter to compare: ``attach`` puts it on the backbone, ``facts`` go into its row."""

    attach: Callable[[], Adapter]
    facts: dict[str, Any]


def compare(
    room: Room,
    backbone: XRIR,
    candidates: Mapping[str, Candidate],
    k: int,
    seed: int,
    split: str = "test",
    phase: str = PHASES[0],
) -> dict[str, Any]:
    """Report of nearest neighbour, linear and energy interpolation, the backbone and its adapters on one split."""
    references = References.of_room(room)
    targets = room.positions[room.splits[split]] - room.receiver
    own = room.without_borrowed()
    of_own = min(k, len(own.splits["train"]))
    predictions = baselines(own, of_own, split, seed, phase)
    if room.borrowed:
        alone = References.of_room(own)
        predictions["backbone, nothing borrowed"] = predict_rirs(backbone, alone, targets, of_own, seed, phase)
    predictions["backbone"] = predict_rirs(backbone, references, targets, k, seed, phase)
    for name, candidate in candidates.items():
        adapter = candidate.attach()
        try:
            predictions[name] = predict_rirs(backbone, references, targets, k, seed, phase)
        finally:
            adapter.detach()
    facts = {name: candidate.facts for name, candidate in candidates.items()}
    return {**evaluate(room, predictions, k=k, seed=seed, split=split, facts=facts), "phase": phase}


def check_unseen(pack: RoomPack, room: Room, split: str) -> None:
    """Raise ``InputError`` if an adapter would be tested where it was trained; say so if it is another room's.

    Configurations of a room may share positions; only measurements of the same configuration count as seen.
    """
    if pack.card["room"]["name"] != room.name:
        print(f"note: {pack.name} was trained on {pack.card['room']['name']}, not on {room.name}")
        return
    borrowed = pack.card["room"].get("borrowed")
    if borrowed:
        print(
            f"note: {pack.name} has {borrowed} borrowed measurements too, which are not used here but by "
            "RoomPredictor and `haa-peft predict`"
        )
    if pack.card["room"].get("fingerprint") == dataclasses.replace(room, channels=pack.channels).fingerprint:
        return
    indices = room.splits[split]
    targets = room.positions[indices]
    trained = pack.as_room().positions
    nearest = trained[nearest_references(targets, trained, 1)[:, 0]]
    seen = indices[np.linalg.norm(nearest - targets, axis=1) < NEAREST]
    if len(seen):
        raise InputError(
            f"{pack.name} was trained on {len(seen)} of the {split} positions of {room.name} (such as {seen[0]}); "
            "evaluate it with the splits that it was trained with"
        )
    print(
        f"note: {pack.name} was trained on other measurements, splits or geometry of {room.name}; "
        f"some of these {split} positions may have chosen its weights"
    )
