"""Adapting a backbone to a room, or to several: one loop for every method."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from haa_peft.adapters.delta import DeltaAdapter
from haa_peft.adapters.layers import frozen_layers, untouched_layers
from haa_peft.adapters.methods import Adapter, MethodSettings, attach
from haa_peft.adapters.peft_adapter import FREE
from haa_peft.errors import InputError
from haa_peft.geometry.channels import parse_channels
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.training.acceptance import Acceptance
from haa_peft.training.borrow import borrow
from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
from haa_peft.training.folds import leave_one_out, measurements_validate
from haa_peft.training.objective import RoomsObjective, check_k
from haa_peft.training.progress import Average, Log, Progress
from haa_peft.training.schedule import warmup_cosine
from haa_peft.training.sensitivity import Sensitivity, choose_frozen, measure_sensitivity
from haa_peft.training.settings import TrainingSettings
from haa_peft.training.statistics import refresh_statistics

ADAM_EPSILON = 1e-6
"""Larger than usual: the gradients are small, and rounding in the smallest would otherwise decide steps."""


@dataclass(frozen=True)
class Start:
    """A stored adapter that training goes on from, and what to call it."""

    name: str
    config: dict
    tensors: dict[str, Tensor]

    def digest(self) -> str:
        """SHA-256 of what it holds."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        content = json.dumps(self.config, sort_keys=True).encode() + safetensors.torch.save(tensors)
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Adaptation:
    """What training gave: the adapter's ``config`` and best ``tensors``, and how it went.

    ``validation`` are (step, loss) pairs; ``steps`` that were run, ``best_step`` whose weights these are; ``frozen``
    layers that were left alone, and what ``--freeze auto`` measured of every layer; ``acceptance`` is what validation
    said, None if nothing was trained.
    """

    method: MethodSettings
    training: TrainingSettings
    config: dict
    tensors: dict[str, Tensor]
    backbone_fingerprint: str
    trainable_parameters: int
    best_step: int
    steps: int
    validation: list[tuple[int, float]]
    seconds: float
    precision: str = "no"
    started_from: str | None = None
    frozen: list[str] = field(default_factory=list)
    sensitivities: list[Sensitivity] = field(default_factory=list)
    acceptance: Acceptance | None = None

    @property
    def unchanged(self) -> bool:
        """Whether validation left what training began with as it was."""
        return self.acceptance is not None and not self.acceptance.accepted

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the adapter's tensors as safetensors."""
        return len(safetensors.torch.save({name: tensor.contiguous() for name, tensor in self.tensors.items()}))


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
    measurement in turn was left out. The backbone is given back as it was. ``run_folder`` gets ``log.jsonl`` and
    ``checkpoint.pt``, which holds the adapter and its optimiser only; with ``resume`` training goes on from it, to the
    same result as without a break.

    Raises
    ------
    InputError
        When there are fewer than K + 1 training measurements, fewer measurements than processes, a
        checkpoint of other settings, or a start that is not an adapter of this method.
    """
    channels = parse_channels(method.channels)
    rooms = [room.with_channels(channels) for room in ([rooms] if isinstance(rooms, Room) else rooms)]
    for room in rooms:
        check_k(training.k, len(room.splits["train"]), room.name)
    shots = sum(len(room.splits["train"]) for room in rooms)
    if accelerator.num_processes > shots:
        raise InputError(
            f"{accelerator.num_processes} processes are more than the {shots} measurements; start at most {shots}"
        )
    training = training.of_method(method.method)
    sensitivities: list[Sensitivity] = []
    started = time.monotonic()
    if method.freeze == "auto" and start is not None:
        frozen = untouched_layers(backbone, start.config)  # chosen when it was made
    elif method.freeze == "auto":
        sensitivities = measure_sensitivity(backbone, rooms, training)
        frozen = choose_frozen(sensitivities)
    else:
        frozen = frozen_layers(backbone, method.freeze)
    stop_at: int | None = None
    acceptance: Acceptance | None = None
    curve: list[tuple[int, float]] = []
    before = time.monotonic() - started  # what freezing took
    if measurements_validate(rooms, training.validation):
        fixed = dataclasses.replace(training, validation="positions", patience=training.max_steps, caution=0.0)

        for room in rooms:
            if len(room.splits["train"]) < 3:
                raise InputError(
                    f"{room.name}: leave-one-out validation needs 3 measurements, of which two remain, but there are "
                    f"{len(room.splits['train'])}; measure more, or give validation positions"
                )

        def train_fold(fold: list[Room], folder: Path) -> tuple[list[tuple[int, float]], float]:
            loans = [room.loan for room in rooms]  # converted anew, without what is left out
            fold = [one if loan is None else borrow(one, loan.lender, backbone, training.k)
                    for one, loan in zip(fold, loans, strict=True)]  # fmt: skip
            run = _Run(backbone, fold, method, fixed, accelerator, folder, frozen, start)
            found = run.train(resume=False, title=folder.name)
            return found.validation, found.seconds

        settings = {"rooms": [room.fingerprint for room in rooms], "frozen": frozen, "start": start and start.digest()}
        settings |= dataclasses.asdict(method) | training.describe() | {"backbone": fingerprint(backbone)}
        if not resume and accelerator.is_main_process:
            (run_folder / "checkpoint.pt").unlink(missing_ok=True)  # of another run
        acceptance, curve, folds = leave_one_out(rooms, run_folder, settings, train_fold, accelerator,
                                                 caution=training.caution, resume=resume)  # fmt: skip
        stop_at = acceptance.best_step if acceptance.accepted else 0
        before += folds
        resume = resume and (run_folder / "checkpoint.pt").exists()
    run = _Run(backbone, rooms, method, training, accelerator, run_folder, frozen, start)
    found = run.train(resume=resume, title="adapting", stop_at=stop_at)
    return dataclasses.replace(
        found,
        validation=found.validation or curve,
        acceptance=acceptance or found.acceptance,
        sensitivities=sensitivities,
        seconds=found.seconds + before,
    )


class _Run:
    """One training run: what it is made of, and going through it."""

    def __init__(
        self,
        backbone: XRIR,
        rooms: list[Room],
        method: MethodSettings,
        training: TrainingSettings,
        accelerator: Accelerator,
        folder: Path,
        frozen: list[str],
        start: Start | None,
    ) -> None:
        self.backbone, self.rooms, self.method, self.training = backbone, rooms, method, training
        self.accelerator, self.folder, self.frozen, self.start = accelerator, folder, frozen, start
        self.settings = {
            "room": " ".join(room.fingerprint for room in rooms),
            "backbone": fingerprint(backbone),
            "start": None if start is None else start.digest(),
            **dataclasses.asdict(method),
            **training.describe(),
            "precision": accelerator.mixed_precision,
        }

    def train(self, *, resume: bool, title: str, stop_at: int | None = None) -> Adaptation:
        """Train to the end, or to ``stop_at`` without validation, and give the backbone back."""
        adapter = attach(self.backbone, self.method, self.training.seed, self.frozen)
        try:
            if self.start is not None:
                _start_from(adapter, self.start)
            return self._train(adapter, resume, title, stop_at)
        finally:
            adapter.detach()
            self.accelerator.free_memory()

    def _train(self, adapter: Adapter, resume: bool, title: str, stop_at: int | None) -> Adaptation:
        training, accelerator = self.training, self.accelerator
        objective = RoomsObjective(
            self.backbone, self.rooms, audible_decay=training.audible_decay, augment=training.augment
        ).eval()
        objective.to(accelerator.device)
        module: Any = objective
        optimizer: Any = None
        scheduler = None
        parameters = adapter.parameters()
        if parameters:
            pull = self.method.method == "l2sp"
            lr, decay = float(training.lr or 0.0), 0.0 if pull else float(training.weight_decay or 0.0)
            optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, eps=ADAM_EPSILON)
            scheduler = LambdaLR(optimizer, warmup_cosine(training.warmup, training.max_steps))
            module, optimizer = accelerator.prepare(objective, optimizer)
        checkpoint = self.folder / "checkpoint.pt"
        average = Average(adapter, training.ema_decay)
        run = Progress(adapter, optimizer, scheduler, average)

        def validate() -> None:
            with average.applied():
                if stop_at is not None:
                    run.keep()
                else:
                    losses = _agreed(objective.validation_losses(training.k), accelerator)
                    run.consider(losses, training.patience, training.min_delta)
            if accelerator.is_main_process:
                save_checkpoint(checkpoint, {"settings": self.settings, **run.state()})

        if resume:
            run.restore(load_checkpoint(checkpoint, self.settings, run.state()))
        else:
            validate()
        total = 1 if not parameters else training.max_steps
        total = total if stop_at is None else min(stop_at, total)
        log = Log(self.folder, accelerator, run.step, total, title)
        for step in range(run.step, total):
            if run.stopped:
                break
            entry: dict[str, Any] = {"step": step + 1}
            if step == 0 and adapter.has_statistics():
                refresh_statistics(objective.each())
            draws = objective.draw(
                training.k, training.seed, step, accelerator.process_index, accelerator.num_processes
            )
            entry["loss"] = self._step(adapter, module, optimizer, draws, step)
            if scheduler is not None:
                if isinstance(adapter, DeltaAdapter) and self.method.method == "l2sp":
                    adapter.pull(min(1.0, float(scheduler.get_last_lr()[0]) * float(training.weight_decay or 0.0)))
                scheduler.step()
                entry["lr"] = scheduler.get_last_lr()[0]
            run.step = step + 1
            average.update(run.step)
            if run.step % training.validate_every == 0 or run.step == total:
                validate()
                if stop_at is None:
                    entry["validation"] = run.validation[-1][1]
            log.write(entry, run.best_loss)
        log.close()
        acceptance = run.settle(training.caution)
        return Adaptation(
            self.method,
            training,
            adapter.config(),
            run.best_tensors,
            self.settings["backbone"],
            adapter.size(),
            run.best_step,
            run.step,
            run.validation,
            run.seconds(),
            accelerator.mixed_precision,
            None if self.start is None else self.start.name,
            self.frozen,
            acceptance=acceptance,
        )

    def _step(self, adapter: Adapter, module: Any, optimizer: Any, draws: list, step: int) -> float:
        """One step of the optimiser, if there is one; the mean loss before it."""
        accelerator, shots = self.accelerator, sum(len(room.splits["train"]) for room in self.rooms)
        if self.method.dropout:
            seeds = np.random.SeedSequence((self.training.seed, step, accelerator.process_index))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            adapter.train(True)
        with torch.set_grad_enabled(optimizer is not None):
            losses = module(draws)
        if optimizer is not None:
            # DDP averages over processes, which may hold unequal shares of the measurements
            accelerator.backward(losses.sum() * accelerator.num_processes / shots)
            optimizer.step()
            optimizer.zero_grad()
        adapter.train(False)
        mean_loss = float(accelerator.reduce(losses.detach().sum(), "sum")) / shots
        if not math.isfinite(mean_loss):
            raise InputError(
                f"the loss is {mean_loss} at step {step + 1}, after which nothing can be learned; nothing is "
                "stored. Lower --lr, or look for extreme values in the RIRs"
            )
        return mean_loss


def _start_from(adapter: Adapter, start: Start) -> None:
    """Set an adapter to a stored one of the same method and layers."""
    own = adapter.config()
    differing = [key for key in {**own, **start.config} if key not in FREE and own.get(key) != start.config.get(key)]
    if set(own.get("target_modules", ())) != set(start.config.get("target_modules", ())):
        differing.append("target_modules")
    if differing:
        key = sorted(differing)[0]
        raise InputError(
            f"training cannot start from {start.name}: its {key} is {start.config.get(key)!r:.60} but this run's is "
            f"{own.get(key)!r:.60}; give the method and ranks that it was made with"
        )
    adapter.load(start.tensors)


def _agreed(losses: list[float], accelerator: Accelerator) -> list[float]:
    """The main process' losses: all stop at the same step, whatever the last bits of theirs."""
    if accelerator.num_processes == 1:
        return losses
    return broadcast(torch.tensor(losses, dtype=torch.float64, device=accelerator.device)).tolist()
