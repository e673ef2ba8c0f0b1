"""What an adapter says about itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from haa_peft.errors import InputError, one_line
from haa_peft.fields import new_names
from haa_peft.geometry.panorama import DepthMap
from haa_peft.rooms.room import Room
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, damaged, read_json, reading, sha256
from haa_peft.tables import shown_name
from haa_peft.training.acceptance import Acceptance

if TYPE_CHECKING:
    from haa_peft.levels.room import RoomLevels
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
    levels: RoomLevels | None = None,
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
        "seconds": round(adaptation.seconds, 1),
        "trainable_parameters": adaptation.trainable_parameters,
        "adapter_bytes": adaptation.adapter_bytes,
    }


def _acceptance(adaptation: Adaptation) -> dict[str, Any] | None:
    """What validation said, if anything was trained."""
    return None if adaptation.acceptance is None else adaptation.acceptance.to_json()


def _room(room: Room) -> dict[str, Any]:
    findings = [one.to_json() for view in room.views for one in view.findings]
    return {
        "name": room.name,
        "source": room.source,
        "licence": room.licence,
        "fingerprint": room.without_borrowed().fingerprint,
        "shots": sum(len(view.own) for view in room.views),
        "borrowed": room.borrowed,
        "borrowed_from": None if room.loan is None else room.loan.lender.name,
        "splits": {split: indices.tolist() for split, indices in room.splits.items()},
        **({"geometry": room.geometry.to_json()} if isinstance(room.geometry, DepthMap) else {}),
        **({"channels": list(room.channels)} if room.channels else {}),
        **({"receivers": [view.receiver.tolist() for view in room.views]} if room.others else {}),
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


def began_with(card: dict) -> str:
    """What training began with, and an unchanged adapter therefore is: an adapter or the backbone."""
    parent = card.get("parent") or {"name": "the backbone"}
    return str(card["training"].get("started_from") or parent["name"])


def kept_weights(card: dict) -> str:
    """Which weights an adapter has and why, as part of a sentence; ``-`` where its card does not say."""
    training = card["training"]
    acceptance = Acceptance.of_card(training)
    if acceptance is None:
        return str(training.get("started_from") or "-")
    if not acceptance.accepted:
        return f"unchanged from {began_with(card)}: {acceptance.reason()}"
    return f"weights of step {training.get('best_step')} of {training.get('steps')}: {acceptance.reason()}"


TOLD_DB = 3.0
"""From front to back, below which no direction is named."""


def fitted_levels(card: dict) -> str:
    """What was fitted of the levels, in a sentence; empty where nothing was."""
    levels = card.get("levels")
    if not levels:
        return ""
    axis, behind = ", ".join(f"{x:.2f}" for x in levels["axis"]), levels["front_to_back_db"]["2000"]
    parts = ", ".join(f"{100 * share:.0f} % {what}" for what, share in levels["shares"][0].items())
    loudest = f"loudest towards ({axis}), {behind:.0f} dB less behind at 2 kHz"
    where = loudest if behind >= TOLD_DB else "much the same all around"
    return f"levels fitted to {card['room']['shots']} measurements: direct sound {where}; told by {parts}"


def kept_recordings(card: dict) -> str:
    """What is kept of the measurements at their own rate and length, in a sentence; empty where nothing is."""
    kept = card.get("recordings")
    if not kept:
        return ""
    rate = f"{kept['sample_rate']:,}".replace(",", " ")
    return f"recordings kept: {kept['seconds']:.3g} s at {rate} Hz, {kept['bytes'] / 1000:.0f} kB"


def described(card: dict) -> list[str]:
    """Method, trained weights, kB, backbone and what training came to: a line of a table."""
    made, training = card["backbone"], card["training"]
    size, weights = f"{training['adapter_bytes'] / 1000:.0f}", str(training["trainable_parameters"])
    of = f"{made['origin'][:40]} {made['fingerprint'][:8]}"
    return [one_line(text, 60) for text in (card["method"]["method"], weights, size, of, kept_briefly(card))]


def kept_briefly(card: dict) -> str:
    """Which weights an adapter has, in some twenty characters; ``-`` where its card does not say."""
    acceptance = Acceptance.of_card(card["training"])
    if acceptance is None:
        return "-"
    if not acceptance.accepted:
        return "levels alone" if card.get("levels") else "unchanged"
    return f"step {card['training'].get('best_step')}, loss {-acceptance.gain_percent:+.1f} %"


def readme(card: dict) -> str:
    """The card as a page."""
    name, training, room = card["name"], card["training"], card["room"]
    method = card.get("method", {})
    augment = training.get("augment", {}).items()
    varied = ", ".join(name if value is True else f"{name} {value:g}" for name, value in augment)
    details = f", rank {method['rank']}, alpha {method['alpha']:g}" if "rank" in method else ""
    reads = f" The panorama shows {' and '.join(room['channels'])} of surfaces too." if room.get("channels") else ""
    evaluation = card.get("evaluation")
    table = ["Not evaluated: the room has no test positions."]
    if evaluation:
        table = [
            f"{evaluation['positions']} {evaluation['split']} positions, K = {evaluation['k']}, "
            f"seed {evaluation['seed']}, paper-compatible metrics, mean absolute errors:",
            "",
            "| predictor | EDT (ms) | C50 (dB) | T60 (%) |",
            "|---|---|---|---|",
            *(
                f"| {shown_name(row)} | {_figure(row['edt_s'], 1000, 1)} | {_figure(row['c50_db'], 1, 2)} "
                f"| {_figure(row['t60_percent'], 1, 1)} |"
                for row in evaluation["rows"]
            ),
            *(["", f"{evaluation['verdict']['line']}."] if "verdict" in evaluation else []),
        ]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            "tags: [room-impulse-response, room-acoustics]",
            "---",
            f"# {name}",
            "",
            f"Adapter ({method.get('method')}{details}) of the xRIR backbone `{card['backbone']['origin']}` "
            f"(fingerprint `{card['backbone']['fingerprint'][:16]}`) for the room `{room['name']}`.",
            "",
            "```python",
            "from haa_peft import RoomPredictor",
            f'predictor = RoomPredictor.load("{name}")',
            "rirs = predictor.predict(positions_xyz)  # (N, 3) m in room coordinates -> (N, 9600) at 22 050 Hz",
            "```",
            "",
            "## Evaluation",
            *table,
            "",
            "## Training",
            f"{room['shots']} measurements{_receivers(room)}, {training['steps']} steps, "
            f"learning rate {training['lr']}, seed {training['seed']}, "
            f"{training['trainable_parameters']} trainable weights, {training['adapter_bytes']} bytes, "
            f"{training['seconds']} s{f'; every other step in a variant of the room ({varied})' if varied else ''}.",
            "",
            f"Kept: {kept_weights(card)}.",
            *(["", f"L{fitted_levels(card)[1:]}."] if card.get("levels") else []),
            *(["", f"R{kept_recordings(card)[1:]}."] if card.get("recordings") else []),
            "",
            *_findings(room),
            f"Data: {room['source']}. Licence of the data: {room['licence']}.{reads}",
            "",
        ]
    )


def _receivers(room: dict[str, Any]) -> str:
    """How many receivers they were made at, where there are several."""
    return f" at {len(room['receivers'])} receivers" if "receivers" in room else ""


def _findings(room: dict[str, Any]) -> list[str]:
    """What was wrong with the measurements, a paragraph each."""
    found = room.get("findings", [])
    return [f"{one['severity'].capitalize()} on the measurements: {one['text']}.\n" for one in found]


def _figure(value: float | None, factor: float, digits: int) -> str:
    return "undefined" if value is None else f"{value * factor:.{digits}f}"
