"""Adapters of one backbone against it and the baselines, in one room."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from haa_peft.adapters.weights import BASE, RoomWeights
from haa_peft.errors import InputError
from haa_peft.evaluation.baselines import baselines
from haa_peft.evaluation.evaluate import check_split, evaluate
from haa_peft.inference.network import RoomNetwork
from haa_peft.inference.packs import paired_receivers
from haa_peft.model.phases import PHASES
from haa_peft.model.predict import nearest_references
from haa_peft.model.tensors import Levels, RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import NEAREST, Room
from haa_peft.store.pack import RoomPack

LOG = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """An adapter to compare, as it is stored, or the backbone alone where ``config`` is None.

    ``facts`` go into its row; ``levels`` are given to what it predicts.
    """

    config: dict | None
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    levels: Levels | None = None


def compare(
    room: Room,
    backbone: XRIR,
    candidates: Mapping[str, Candidate],
    k: int,
    seed: int,
    split: str = "test",
    phase: str = PHASES[0],
) -> dict[str, Any]:
    """Report of nearest neighbour, linear and energy interpolation, the backbone and its adapters on one split.

    Predictions come from the :class:`~haa_peft.inference.network.RoomNetwork` that serves users.

    Parameters
    ----------
    room : with training measurements, the references.
    backbone : with no adapter attached.
    candidates : adapters by name.
    k : nearest training measurements that a prediction starts from.
    seed, phase : of the waveforms (:func:`~haa_peft.model.predict.waveforms`).
    split : whose positions are predicted.

    Raises
    ------
    InputError
        When the split is empty, or an adapter does not fit the backbone.
    """
    check_split(room, split)
    network = RoomNetwork(backbone, phase=phase)

    def predict(weights: RoomWeights, references: Room, k: int, levels: Levels | None = None) -> np.ndarray:
        found = []
        for i, single in enumerate(references.at_receivers):
            if not len(single.splits[split]):
                continue
            encoded = network.encode(weights, RoomTensors.of_room(single, network.base.device))
            encoded = encoded._replace(levels=None if levels is None else levels.at_receivers[i])
            targets = single.positions[single.splits[split]] - single.receiver
            found += list(network.stream(encoded, targets, min(k, len(single.splits["train"])), seed))
        return np.concatenate(found)

    own = room.without_borrowed()
    of_own = min(k, len(own.splits["train"]))
    tested = [single for single in own.at_receivers if len(single.splits[split])]
    alone = [baselines(single, min(of_own, len(single.splits["train"])), split, seed, phase) for single in tested]
    predictions = {name: np.concatenate([one[name] for one in alone]) for name in alone[0]}
    if room.borrowed:
        predictions["backbone, nothing borrowed"] = predict(BASE, own, of_own)
    predictions["backbone"] = predict(BASE, room, k)
    for name, candidate in candidates.items():
        config, tensors, _, levels = candidate
        weights = BASE if config is None else RoomWeights.of_adapter(network.base, config, tensors)
        predictions[name] = predict(weights, room, k, levels)
    facts = {name: candidate.facts for name, candidate in candidates.items()}
    return {**evaluate(room, predictions, k=k, seed=seed, split=split, facts=facts), "phase": phase}


def check_unseen(pack: RoomPack, room: Room, split: str) -> None:
    """Raise ``InputError`` if an adapter would be tested where it was trained; say so if it is another room's.

    Configurations of a room may share positions; only measurements of the same configuration count as seen.
    """
    if pack.card["room"]["name"] != room.name:
        LOG.info(f"note: {pack.name} was trained on {pack.card['room']['name']}, not on {room.name}")
        return
    borrowed = pack.card["room"].get("borrowed")
    if borrowed:
        LOG.info(
            f"note: {pack.name} has {borrowed} borrowed measurements too, which are not used here but by "
            "RoomPredictor and `haa-peft predict`"
        )
    others = tuple(dataclasses.replace(single, channels=pack.channels) for single in room.others)
    shown = dataclasses.replace(room, channels=pack.channels, others=others)
    if pack.card["room"].get("fingerprint") == shown.fingerprint:
        return
    seen = np.concatenate([_seen(own.as_room(), single, split) for own, single in paired_receivers(pack, room)])
    if len(seen):
        raise InputError(
            f"{pack.name} was trained on {len(seen)} of the {split} positions of {room.name} (such as {seen[0]}); "
            "evaluate it with the splits that it was trained with"
        )
    LOG.info(
        f"note: {pack.name} was trained on other measurements, splits or geometry of {room.name}; "
        f"some of these {split} positions may have chosen its weights"
    )


def _seen(trained: Room, room: Room, split: str) -> np.ndarray:
    """Indices (S,) of a split's positions that are training positions of ``trained``, at one receiver."""
    indices = room.splits[split]
    targets, places = room.positions[indices], trained.positions
    nearest = places[nearest_references(targets, places, 1)[:, 0]]
    return indices[np.linalg.norm(nearest - targets, axis=1) < NEAREST]
