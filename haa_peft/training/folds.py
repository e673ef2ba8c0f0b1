"""Leave-one-out validation: for those who have a dozen measurements and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from haa_peft.errors import InputError
from haa_peft.files import write_json
from haa_peft.rooms.room import Room
from haa_peft.training.acceptance import Acceptance

Curve = list[tuple[int, float]]
"""Validation losses by step."""


def measurements_validate(rooms: Sequence[Room], validation: str) -> bool:
    """Whether the training measurements themselves must choose the weights.

    Raises
    ------
    InputError
        When ``validation`` is ``positions`` and no room has validation positions.
    """
    if validation == "auto":
        return not any(len(room.splits["valid"]) for room in rooms)
    if validation == "positions" and not any(len(room.splits["valid"]) for room in rooms):
        raise InputError(f"{rooms[0].name} has no validation positions; give --validation leave-one-out")
    return validation == "leave-one-out"


def folds_of(rooms: Sequence[Room]) -> list[list[Room]]:
    """The rooms, in turn without one of their training measurements, which then is the only validation position.

    The n-th fold leaves the n-th measurement of every room out; there are as many as the largest room has. Nothing
    is borrowed in them.
    """
    rooms = [room.without_borrowed() for room in rooms]
    empty = np.array([], dtype=np.int64)
    folds = []
    for i in range(max(len(room.splits["train"]) for room in rooms)):
        fold = []
        for room in rooms:
            train = room.splits["train"]
            left = train[[i]] if i < len(train) else empty
            splits = {"train": np.setdiff1d(train, left), "valid": left, "test": room.splits["test"]}
            fold.append(dataclasses.replace(room, splits=splits).refitted())
        folds.append(fold)
    return folds


def leave_one_out(
    rooms: Sequence[Room],
    folder: Path,
    settings: dict[str, Any],
    train: Callable[[list[Room], Path], tuple[Curve, float]],
    accelerator: Accelerator,
    *,
    caution: float,
    resume: bool,
) -> tuple[Acceptance, Curve, float]:
    """What is said of the best number of steps, mean losses of adapters each trained without one measurement, seconds.

    Parameters
    ----------
    rooms : whose training measurements are left out in turn.
    folder : keeps the losses of a fold, for a resumed run of the same ``settings``.
    settings : what the result depends on.
    train : runs one fold to the end, in its folder.
    accelerator : of accelerate.
    caution : standard errors by which the best steps must be better.
    resume : take folds that are done from ``folder``.
    """
    curves, total = [], 0.0
    for i, fold in enumerate(folds_of(rooms)):
        path = folder / f"fold-{i}.json"
        done = _read(path, settings) if resume else None
        if done is None:
            done = train(fold, folder / f"fold-{i}")
            if accelerator.is_main_process:
                write_json(path, {"settings": settings, "validation": done[0], "seconds": done[1]})
        curves.append(done[0])
        total += done[1]
    steps = [step for step, _ in curves[0]]
    losses = np.array([[loss for _, loss in curve] for curve in curves])
    means = losses.mean(axis=0)
    best = int(means.argmin())
    found = Acceptance.of(losses[:, 0].tolist(), losses[:, best].tolist(), steps[best], caution)
    return found, list(zip(steps, means.tolist(), strict=True)), total


def _read(path: Path, settings: dict[str, Any]) -> tuple[Curve, float] | None:
    """What a broken run kept of a fold; None if it did not come so far, or was another run."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != json.loads(json.dumps(settings)):
            return None
        return [(int(step), float(loss)) for step, loss in kept["validation"]], float(kept["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
