"""What an adapter says about itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from haa_peft.errors import InputError
from haa_peft.fields import new_names
from haa_peft.geometry.panorama import DepthMap
from haa_peft.rooms.room import Room
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, damaged, read_json, reading, sha256

if TYPE_CHECKING:
    from haa_peft.model.tensors import Levels
    from haa_peft.training.loop import Adaptation

SCHEMA = 2
"""Counts up when what a card says changes; since 2 it has a digest."""
WITHOUT_DIGEST = 1
"""Schema of older cards, which are read as before."""
FIELDS: tuple[tuple[str, str, type], ...] = (
    ("backbone", "origin", str),
    ("backbone", "fingerprint", str),
    ("method", "method", str),
    ("training", "k", int),
    ("training", "trainable_parameters", int),
    ("training", "adapter_bytes", int),
    ("room", "name", str),
)
"""What other modules read from a card."""


class NewerCardError(InputError):
    """A pack is of a later version of this package."""


def make_card(
    adaptation: Adaptation,
    room: Room,
    backbone: dict[str, str],
    evaluation: dict | None,
    *,
    parent: tuple[str, str] | None = None,
    first: Adaptation | None = None,
    levels: Levels | None = None,
) -> dict:
    """The card of a trained adapter.

    Parameters
    ----------
    adaptation : what training gave.
    room : what it was trained on.
    backbone : ``origin``, its name for people, and ``fingerprint``, which decides; below ``parent`` if there is one.
    evaluation : report of :func:`haa_peft.evaluation.evaluate.evaluate` on test positions, if there were any.
    parent : name and digest of the adapter that it lies on top of.
    first : the first of two stages of training.
    levels : that its predictions are given.
    """
    from importlib.metadata import version

    method = {**adaptation.method.describe(), "frozen": adaptation.frozen}
    if adaptation.sensitivities:
        method["sensitivities"] = [one._asdict() for one in adaptation.sensitivities]
    if "target_modules" in adaptation.config:
        method["targets"] = adaptation.config["target_modules"]
    return {
        "backbone": backbone,
        **({} if parent is None else {"parent": dict(zip(("name", "digest"), parent, strict=True))}),
        "method": method,
        "training": {**_training(adaptation), **({} if first is None else {"first_stage": _acceptance(first)})},
        **({} if levels is None else {"levels": levels.describe()}),
        "room": _room(room),
        "evaluation": evaluation,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("haa-peft", "torch", "peft", "accelerate")},
        },
    }


def _training(adaptation: Adaptation) -> dict[str, Any]:
    return {
        **adaptation.training.describe(),
        "precision": adaptation.precision,
        "started_from": adaptation.started_from,
        "steps": adaptation.steps,
        "best_step": adaptation.best_step,
        "acceptance": _acceptance(adaptation),
        "validation": adaptation.validation,
        "validation_by": adaptation.training.validation,
        "seconds": round(adaptation.seconds, 1),
        "trainable_parameters": adaptation.trainable_parameters,
        "adapter_bytes": adaptation.adapter_bytes,
    }


def _acceptance(adaptation: Adaptation) -> dict[str, Any] | None:
    """What validation said, if anything was trained."""
    return None if adaptation.acceptance is None else adaptation.acceptance.to_json()


def _room(room: Room) -> dict[str, Any]:
    findings = [one.to_json() for single in room.at_receivers for one in single.findings]
    return {
        "name": room.name,
        "source": room.source,
        "licence": room.licence,
        "fingerprint": room.without_borrowed().fingerprint,
        "shots": sum(len(single.own) for single in room.at_receivers),
        "borrowed": room.borrowed,
        "borrowed_from": None if room.loan is None else room.loan.lender.name,
        "splits": {split: indices.tolist() for split, indices in room.splits.items()},
        **({"geometry": room.geometry.to_json()} if isinstance(room.geometry, DepthMap) else {}),
        **({"channels": list(room.channels)} if room.channels else {}),
        **({"receivers": [single.receiver.tolist() for single in room.at_receivers]} if room.others else {}),
        **({"findings": findings} if findings else {}),
    }


def parse_card(name: AdapterName, content: bytes) -> dict:
    """Read ``card.json``; ``InputError`` where it is no JSON, of another schema or name, changed, or incomplete."""
    with reading(name, CARD):
        card = read_json(content)
    schema = card.get("schema") if isinstance(card, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerCardError(f"{name}: made by a newer haa-peft (schema {schema}, this one reads {SCHEMA}); update it")
    if schema not in (WITHOUT_DIGEST, SCHEMA) or isinstance(schema, bool):
        raise damaged(name, f"{CARD} has schema {schema!r} but must have {SCHEMA}")
    sections = [card.get(section) for section in ("files", "backbone", "method", "training", "room")]
    if card.get("name") != str(name) or not all(isinstance(section, dict) for section in sections):
        raise damaged(name, f"{CARD} is of {card.get('name')!r} or incomplete")
    if schema != WITHOUT_DIGEST and card.get("digest") != card_digest(card):
        raise damaged(name, f"{CARD} is not what its digest says")
    card["training"] = new_names(card["training"])
    below = card.get("parent")
    if below is not None and not (
        isinstance(below, dict) and all(isinstance(below.get(key), str) for key in ("name", "digest"))
    ):
        raise damaged(name, f"{CARD} has no valid parent")
    borrowed = card["room"].get("borrowed", 0)
    if type(borrowed) is not int or borrowed < 0:
        raise damaged(name, f"{CARD} has no valid room.borrowed")
    for section, field, kind in FIELDS:
        value: Any = card[section].get(field)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**53):
            raise damaged(name, f"{CARD} has no valid {section}.{field}")
    return card


def card_digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of all that a card says but for its ``digest``.

    It holds the other files' SHA-256, and so it is one digest of everything that predictions depend on.
    """
    said = {key: value for key, value in card.items() if key != "digest"}
    return sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
