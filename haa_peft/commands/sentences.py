"""A card in words: sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from haa_peft.errors import InputError
from haa_peft.training.acceptance import Acceptance


def shown_name(row: Mapping[str, Any]) -> str:
    """A predictor's name in a table, with a word if it is an adapter whose training validation undid."""
    return str(row["predictor"]) + (" (unchanged)" if row.get("unchanged") else "")


def began_with(card: dict) -> str:
    """What training began with, and an unchanged adapter therefore is: an adapter or the backbone."""
    parent = card.get("parent") or {"name": "the backbone"}
    return str(card["training"].get("started_from") or parent["name"])


def acceptance_of(training: Mapping[str, Any]) -> Acceptance | None:
    """What validation said, by a card's ``training`` or, where that is older, its losses; None if nothing validated.

    Raises
    ------
    InputError
        When the card's ``acceptance`` is damaged.
    """
    try:
        if (kept := training.get("acceptance")) is not None:
            losses = float(kept["start_loss"]), float(kept["best_loss"])
            threshold = math.inf if kept["threshold"] is None else float(kept["threshold"])
            return Acceptance(*losses, int(kept["best_step"]), threshold, kept["outcome"] == "trained")
        curve = [(float(loss), int(step)) for step, loss in training.get("validation") or () if loss is not None]
        if not curve:
            return None
        loss, step = min(curve)
        return Acceptance(curve[0][0], loss, step, math.nan, int(training["best_step"]) > 0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError("card.json has no valid training.acceptance; restore or retrain the adapter") from None


def kept_weights(card: dict) -> str:
    """Which weights an adapter has and why, as part of a sentence; ``-`` where its card does not say."""
    training = card["training"]
    acceptance = acceptance_of(training)
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
