"""The page of a pack: its card in words, as README.md."""

from __future__ import annotations

from typing import Any

from haa_peft.commands.sentences import fitted_levels, kept_weights, shown_name


def readme(card: dict) -> str:
    """The card as a page."""
    name, training, room = card["name"], card["training"], card["room"]
    method = card.get("method", {})
    augment = training.get("augment", {}).items()
    varied = ", ".join(name if value is True else f"{name} {value:g}" for name, value in augment)
    details = f", rank {method['rank']}, alpha {method['alpha']:g}" if "rank" in method else ""
    reads = f" The panorama shows {' and '.join(room['channels'])} of surfaces too." if room.get("channels") else ""
    at = ", receiver=0" if "receivers" in room else ""
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
            f"rirs = predictor.predict(positions_xyz{at})  # (N, 3) m in room coordinates -> (N, 9600) at 22 050 Hz",
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


def kept_recordings(card: dict) -> str:
    """What is kept of the measurements at their own rate and length, in a sentence; empty where nothing is."""
    kept = card.get("recordings")
    if not kept:
        return ""
    rate = f"{kept['sample_rate']:,}".replace(",", " ")
    return f"recordings kept: {kept['seconds']:.3g} s at {rate} Hz, {kept['bytes'] / 1000:.0f} kB"
