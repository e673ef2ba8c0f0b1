"""One training run on accelerate: draws, steps, validation, the best weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
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

from haa_peft.adapters.lora import FREE
from haa_peft.adapters.methods import Adapter, MethodSettings, attach
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.training.acceptance import Acceptance
from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
from haa_peft.training.objective import RoomsObjective
from haa_peft.training.progress import Average, Log, Progress
from haa_peft.training.schedule import warmup_cosine
from haa_peft.training.settings import TrainingSettings
from haa_peft.training.statistics import refresh_statistics

ADAM_EPSILON = 1e-6
"""Larger than usual: the gradients are small, and rounding in the smallest would otherwise decide steps."""


@dataclass(frozen=True)
class Start:
    """An adapter that training goes on from, or that lies below a new one.

    Attributes
    ----------
    name : what to call it.
    config, tensors : what it is.
    channels : what it reads of surfaces beside their coordinates.
    trained_on : ``room/configuration`` that it has seen, if known.
    pack_digest : of the stored pack that it is (:meth:`~haa_peft.store.pack.RoomPack.adapter_digest`), if it is one.
    """

    name: str
    config: dict
    tensors: dict[str, Tensor]
    channels: tuple[str, ...] = ()
    trained_on: str = ""
    pack_digest: str = ""

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
    sensitivities: list[Any] = field(default_factory=list)
    acceptance: Acceptance | None = None

    @property
    def unchanged(self) -> bool:
        """Whether validation left what training began with as it was."""
        return self.acceptance is not None and not self.acceptance.accepted

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the adapter's tensors as safetensors."""
        return len(safetensors.torch.save({name: tensor.contiguous() for name, tensor in self.tensors.items()}))


@dataclass(frozen=True)
class Run:
    """What a training run is made of; ``frozen`` are the layers left alone, ``folder`` gets log and checkpoint."""

    backbone: XRIR
    rooms: list[Room]
    method: MethodSettings
    training: TrainingSettings
    accelerator: Accelerator
    folder: Path
    frozen: list[str]
    start: Start | None = None

    @property
    def shots(self) -> int:
        """Training measurements of all rooms."""
        return sum(len(room.splits["train"]) for room in self.rooms)

    def settings(self) -> dict[str, Any]:
        """What its result depends on, as JSON: a checkpoint of other settings is not resumed."""
        return {
            "room": " ".join(room.fingerprint for room in self.rooms),
            "backbone": fingerprint(self.backbone),
            "start": None if self.start is None else self.start.digest(),
            **dataclasses.asdict(self.method),
            **self.training.describe(),
            "precision": self.accelerator.mixed_precision,
        }


def train(run: Run, *, resume: bool, title: str, stop_at: int | None = None) -> Adaptation:
    """Train to the end and give the backbone back as it was.

    Parameters
    ----------
    run : what it is made of.
    resume : go on from the run's checkpoint.
    title : of the progress bar.
    stop_at : step at which to stop, without validation; at the end of the settings unless given.
    """
    settings = run.settings()  # of the backbone alone
    adapter = attach(run.backbone, run.method, run.training.seed, run.frozen)
    try:
        if run.start is not None:
            _start_from(adapter, run.start)
        progress = _train(run, adapter, settings, resume, title, stop_at)
        acceptance = progress.settle(run.training.caution)
        return Adaptation(
            run.method,
            run.training,
            adapter.config(),
            progress.best_tensors,
            settings["backbone"],
            adapter.size(),
            progress.best_step,
            progress.step,
            progress.validation,
            progress.seconds(),
            run.accelerator.mixed_precision,
            None if run.start is None else run.start.name,
            run.frozen,
            acceptance=acceptance,
        )
    finally:
        adapter.detach()
        run.accelerator.free_memory()


def _train(
    run: Run, adapter: Adapter, settings: dict[str, Any], resume: bool, title: str, stop_at: int | None
) -> Progress:
    """Go through the steps; where the run stands at their end."""
    training, accelerator = run.training, run.accelerator
    objective = RoomsObjective(
        run.backbone, run.rooms, audible_decay=training.audible_decay, augment=training.augment
    ).eval()
    objective.to(accelerator.device)
    module, optimizer, scheduler = _optimiser(run, adapter, objective)
    average = Average(adapter, training.ema_decay)
    progress = Progress(adapter, optimizer, scheduler, average)
    checkpoint = run.folder / "checkpoint.pt"

    def validate() -> None:
        with average.applied():
            if stop_at is not None:
                progress.keep()
            else:
                losses = _agreed(objective.validation_losses(training.k), accelerator)
                progress.consider(losses, training.patience, training.min_delta)
        if accelerator.is_main_process:
            save_checkpoint(checkpoint, {"settings": settings, **progress.state()})

    if resume:
        progress.restore(load_checkpoint(checkpoint, settings, progress.state()))
    else:
        validate()
    total = training.max_steps if adapter.parameters() else 1
    total = total if stop_at is None else min(stop_at, total)
    log = Log(run.folder, accelerator, progress.step, total, title)
    for step in range(progress.step, total):
        if progress.stopped:
            break
        if step == 0 and adapter.has_statistics():
            refresh_statistics(objective.each)
        draws = objective.draw(training.k, training.seed, step, accelerator.process_index, accelerator.num_processes)
        entry: dict[str, Any] = {"step": step + 1, "loss": _step(run, adapter, module, optimizer, draws, step)}
        if scheduler is not None:
            scheduler.step()
            entry["lr"] = scheduler.get_last_lr()[0]
        progress.step = step + 1
        average.update(progress.step)
        if progress.step % training.validate_every == 0 or progress.step == total:
            validate()
            if stop_at is None:
                entry["validation"] = progress.validation[-1][1]
        log.write(entry, progress.best_loss)
    log.close()
    return progress


def _optimiser(run: Run, adapter: Adapter, objective: RoomsObjective) -> tuple[Any, Any, LambdaLR | None]:
    """The objective as accelerate wraps it, AdamW and its schedule; without the last two if nothing has gradients."""
    parameters = adapter.parameters()
    if not parameters:
        return objective, None, None
    training = run.training
    optimizer = torch.optim.AdamW(
        parameters, lr=float(training.lr or 0.0), weight_decay=training.weight_decay, eps=ADAM_EPSILON
    )
    scheduler = LambdaLR(optimizer, warmup_cosine(training.warmup, training.max_steps))
    module, prepared = run.accelerator.prepare(objective, optimizer)
    return module, prepared, scheduler


def _step(run: Run, adapter: Adapter, module: Any, optimizer: Any, draws: list, step: int) -> float:
    """One step of the optimiser, if there is one; the mean loss before it."""
    accelerator = run.accelerator
    if run.method.dropout:
        seeds = np.random.SeedSequence((run.training.seed, step, accelerator.process_index))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        adapter.train(True)
    with torch.set_grad_enabled(optimizer is not None):
        losses = module(draws)
    if optimizer is not None:
        # DDP averages over processes, which may hold unequal shares of the measurements
        accelerator.backward(losses.sum() * accelerator.num_processes / run.shots)
        optimizer.step()
        optimizer.zero_grad()
    adapter.train(False)
    mean_loss = float(accelerator.reduce(losses.detach().sum(), "sum")) / run.shots
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
