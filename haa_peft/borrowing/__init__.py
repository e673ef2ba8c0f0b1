"""Measurements of another configuration of a room, converted to this one by what has changed between them.

A panel that is put up changes decay much the same everywhere. A few measurements tell by how much: each is compared
with what the other configuration's measurements predict for its position. Where that is not so (a directional
loudspeaker is turned), converted measurements do harm, and :func:`borrow_if_better` finds out.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.inference.packs import load_pack
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Loan, Room
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.training.folds import folds_of, measurements_validate
from haa_peft.training.objective import RoomObjective
from haa_peft.training.settings import TrainingSettings

LOG = logging.getLogger(__name__)

SPANS = np.array([0, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.27, 0.33, 0.435])
"""Seconds after the direct sound between which energies are compared."""
CENTRES = np.sqrt(SPANS[:-1] * SPANS[1:])
LEAD = 0.001
"""Seconds before the direct sound that count to it."""
SAME = 0.05
"""Metres within which two positions are the same."""
LEAST = 1e-10
"""Energy below which a span is silent, of the loudest measurement's peak squared."""


def borrow(room: Room, lender: Room, backbone: XRIR, k: int = 8) -> Room:
    """``room`` with the training measurements of ``lender``, converted, behind its own.

    The level in every span of time after the direct sound is changed by the mean, over the room's own training
    measurements, of their level in dB less that of what ``backbone`` predicts for them from K of the lender's.

    Positions keep their place as seen from the receiver; those that lie outside the room then, or where the room has a
    measurement itself, are not borrowed. What was measured, in either frame, where ``room`` validates or tests is not
    used at all.

    Parameters
    ----------
    room, lender : two configurations of one room.
    backbone : with no adapter attached.
    k : nearest of the lender's measurements that predict; all if there are fewer.

    Raises
    ------
    InputError
        When the two are configurations of different rooms, or nothing is left to borrow.
    """
    if lender.room != room.room or lender.configuration == room.configuration:
        raise InputError(
            f"{lender.name} cannot lend to {room.name}, but another configuration of {room.room} can; "
            "give the name of one"
        )
    room = room.without_borrowed()
    own, lent = room.splits["train"], lender.splits["train"]
    unseen = np.concatenate([room.splits["valid"], room.splits["test"]])
    places = lender.positions[lent] - lender.receiver
    here = room.positions - room.receiver
    lent = lent[_apart(places, here[unseen]) & _apart(lender.positions[lent], room.positions[unseen])]
    places = lender.positions[lent] - lender.receiver
    low, high = room.geometry.bounds()
    inside = ((places + room.receiver > low) & (places + room.receiver < high)).all(axis=1)
    kept = _apart(places, here[own]) & inside
    if not kept.any():
        raise InputError(f"{lender.name} has no measurement inside {room.name} that is not at one of its own positions")
    ratio = lender.scale / room.scale
    rirs = lender.rirs[lent] * ratio
    references = RoomTensors.of_arrays(lender.panorama, rirs, places)
    predicted = predict_rirs(backbone, references, here[own], min(k, len(lent)), 0)
    change = np.mean(_levels(room.rirs[own], here[own]) - _levels(predicted, here[own]), axis=0)
    places, rirs = places[kept], rirs[kept]
    gains = [np.interp(_times(place, rirs.shape[1]), CENTRES, change) for place in places]
    converted = (rirs * 10 ** (np.array(gains) / 20)).astype(np.float32)
    count = len(room.positions)
    return dataclasses.replace(
        room,
        rirs=np.concatenate([room.rirs, converted]),
        positions=np.concatenate([room.positions, places + room.receiver]),
        splits={**room.splits, "train": np.concatenate([own, np.arange(count, count + len(places))])},
        source=f"{room.source}; {len(places)} more converted from {lender.name} ({lender.source}, {lender.licence})",
        loan=Loan(room, lender),
    )


def borrow_if_better(
    room: Room, lender: Room, backbone: XRIR, k: int = 8, *, audible_decay: float = 1.0, validation: str = "auto"
) -> Room:
    """:func:`borrow`, if that lowers the backbone's mean loss; otherwise ``room`` itself.

    With one measurement and nothing else that cannot be told: ``room`` is given back.

    Parameters
    ----------
    room, lender, backbone, k : as in :func:`borrow`.
    audible_decay : weight in the loss (:class:`~haa_peft.training.settings.TrainingSettings`).
    validation : whose loss, as in training: that at the validation positions, or that of every training measurement,
        which is left out of all that predicts it.
    """
    tried = [room]
    if measurements_validate([room], validation):
        tried = [fold for (fold,) in folds_of([room]) if len(fold.splits["train"])]
    losses = np.zeros(2)
    for one in tried:
        for i, candidate in enumerate((one, borrow(one, lender, backbone, k))):
            objective = RoomObjective(backbone, candidate, audible_decay=audible_decay).eval().to(backbone.device)
            losses[i] += float(objective.validation_losses(min(k, len(candidate.splits["train"]))).mean())
    return borrow(room, lender, backbone, k) if losses[1] < losses[0] else room


def borrow_from(
    room: Room, lender: str | Room, store: Path | str | None, backbone: XRIR, k: int, training: TrainingSettings
) -> Room:
    """:func:`borrow_if_better`, and a line that says what came of it.

    Parameters
    ----------
    room, backbone, k : as in :func:`borrow`.
    lender, store : another configuration, or the name of its adapter in a store, whose references are then borrowed.
    training : its weight of the decay and its validation count.

    Raises
    ------
    InputError
        When the room has several receivers, the adapter is missing or unfit, or as :func:`borrow` does.
    """
    room = room.alone("--borrow")
    name = lender if isinstance(lender, str) else lender.name
    if isinstance(lender, str):
        lender = load_pack(store_folder(store), AdapterName.parse(name), backbone).as_room()
    decay, validation = training.audible_decay, training.validation
    room = borrow_if_better(room, lender, backbone, k, audible_decay=decay, validation=validation)
    if room.borrowed:
        LOG.info("%d more measurements are %s's, converted to %s", room.borrowed, name, room.name)
    else:
        LOG.info("note: measurements of %s, converted, make predictions no better; none is borrowed", name)
    return room


def _apart(positions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the positions (N, 3) are none of the others (M, 3), (N,)."""
    return (np.linalg.norm(positions[:, None] - others, axis=-1) > SAME).all(axis=1)


def _times(place: np.ndarray, length: int) -> np.ndarray:
    """Seconds after the direct sound of every sample, for a position (3,) m from the receiver."""
    return np.arange(length) / SAMPLE_RATE - np.linalg.norm(place) / SPEED_OF_SOUND


def _levels(rirs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Energy in dB in every span, (N, 12), of RIRs (N, T) at places (N, 3) m from the receiver."""
    edges = SPANS.copy()
    edges[0] = -LEAD
    found = []
    for rir, place in zip(rirs, places, strict=True):
        energy, _ = np.histogram(_times(place, len(rir)), edges, weights=rir.astype(np.float64) ** 2)
        found.append(10 * np.log10(np.maximum(energy, LEAST)))
    return np.array(found)
