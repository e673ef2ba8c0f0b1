"""Adapting a backbone to a room, or to several: which layers train, what validates, and the run that is kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from haa_peft.adapters.layers import frozen_layers, untouched_layers
from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import InputError
from haa_peft.geometry.channels import parse_channels
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.satellites import satellite
from haa_peft.training.acceptance import Acceptance
from haa_peft.training.folds import Curve, leave_one_out, measurements_validate
from haa_peft.training.loop import Adaptation, Run, Start, train
from haa_peft.training.objective import check_k
from haa_peft.training.settings import TrainingSettings


def adapt(
    backbone: XRIR,
    rooms: Room | Sequence[Room],
    method: MethodSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
    run_folder: Path,
    *,
    start: Start | None = None,
    resume: bool = False,
) -> Adaptation:
    """Train an adapter of a frozen backbone on the training measurements of a room, or of several together.

    The weights kept are those with the lowest validation loss, or the start's if it was not lower by enough
    (:mod:`~haa_peft.training.acceptance`); without validation positions, those of the step that was best when each
    measurement in turn was left out. The backbone is given back as it was.

    Parameters
    ----------
    backbone : on the accelerator's device.
    rooms : one, or those that are adapted to together, with all of their receivers.
    method, training : what is trained, and how.
    accelerator : of accelerate, with all processes.
    run_folder : gets ``log.jsonl`` and ``checkpoint.pt``, which holds the adapter and its optimiser only.
    start : adapter that training goes on from.
    resume : go on from the checkpoint, to the same result as without a break.

    Raises
    ------
    InputError
        When there are fewer than K + 1 training measurements, fewer measurements than processes, a
        checkpoint of other settings, or a start that is not an adapter of this method.
    """
    channels = parse_channels(method.channels)
    rooms = [room.with_channels(channels) for room in ([rooms] if isinstance(rooms, Room) else rooms)]
    rooms = [single for room in rooms for single in room.at_receivers]
    _check_measurements(rooms, training, accelerator)
    training = training.of_method(method.method, backbone.config.weighting)
    began = time.monotonic()
    frozen, sensitivities = _choose_frozen(backbone, rooms, method, training, start)
    before = time.monotonic() - began
    run = Run(backbone, rooms, method, training, accelerator, run_folder, frozen, start)
    if not measurements_validate(rooms, training.validation):
        found = train(run, resume=resume, title="adapting")
    else:
        acceptance, curve, seconds = _leave_one_out(run, resume)
        resume = resume and (run_folder / "checkpoint.pt").exists()
        stop_at = acceptance.best_step if acceptance.accepted else 0
        found = train(run, resume=resume, title="adapting", stop_at=stop_at)
        found = dataclasses.replace(found, validation=curve, acceptance=acceptance)
        before += seconds
    return dataclasses.replace(found, sensitivities=sensitivities, seconds=found.seconds + before)


def _check_measurements(rooms: Sequence[Room], training: TrainingSettings, accelerator: Accelerator) -> None:
    for room in rooms:
        check_k(training.k, len(room.splits["train"]), room.name)
    shots = sum(len(room.splits["train"]) for room in rooms)
    if accelerator.num_processes > shots:
        raise InputError(
            f"{accelerator.num_processes} processes are more than the {shots} measurements; start at most {shots}"
        )
    for room in rooms if measurements_validate(rooms, training.validation) else ():
        if len(room.splits["train"]) < 3:
            raise InputError(
                f"{room.name}: leave-one-out validation needs 3 measurements, of which two remain, but there are "
                f"{len(room.splits['train'])}; measure more, or give validation positions"
            )


def _choose_frozen(
    backbone: XRIR, rooms: list[Room], method: MethodSettings, training: TrainingSettings, start: Start | None
) -> tuple[list[str], list[Any]]:
    """Layers that are left alone; and what ``--freeze auto`` measured of every layer."""
    if method.freeze != "auto":
        return frozen_layers(backbone, method.freeze), []
    if start is not None:
        return untouched_layers(backbone, start.config), []  # chosen when it was made
    sensitivity = satellite("sensitivity", "--freeze auto")
    sensitivities = sensitivity.measure_sensitivity(backbone, rooms, training)
    return sensitivity.choose_frozen(sensitivities), sensitivities


def _leave_one_out(run: Run, resume: bool) -> tuple[Acceptance, Curve, float]:
    """What is said of the best number of steps, the mean losses by step, and the seconds that the folds took."""
    fixed = dataclasses.replace(run.training, validation="positions", patience=run.training.max_steps, caution=0.0)

    def train_fold(fold: list[Room], folder: Path) -> tuple[Curve, float]:
        lent = [
            one
            if room.loan is None
            else satellite("borrowing", "--borrow").borrow(one, room.loan.lender, run.backbone, run.training.k)
            for one, room in zip(fold, run.rooms, strict=True)  # converted anew, without what is left out
        ]
        one = dataclasses.replace(run, rooms=lent, training=fixed, folder=folder)
        found = train(one, resume=False, title=folder.name)
        return found.validation, found.seconds

    if not resume and run.accelerator.is_main_process:
        (run.folder / "checkpoint.pt").unlink(missing_ok=True)  # of another run
    settings = {**run.settings(), "frozen": run.frozen}
    return leave_one_out(run.rooms, run.folder, settings, train_fold, run.accelerator, caution=run.training.caution,
                         resume=resume)  # fmt: skip
