"""Adapting a backbone to a room: one loop for every method."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from haa_peft.adaptation.methods import Adapter, MethodSettings, attach
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError, check_seed
from haa_peft.rooms.room import Room
from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
from haa_peft.training.objective import RoomObjective, check_k, draw_references
from haa_peft.training.schedule import warmup_cosine

LEARNING_RATES = {"lora": 1e-3, "bias": 1e-3, "full": 1e-4}
ADAM_EPSILON = 1e-6
"""Larger than usual: the gradients are small, and rounding in the smallest would otherwise decide steps."""


@dataclass(frozen=True)
class TrainingSettings:
    """How an adapter is trained.

    Attributes
    ----------
    max_steps : most optimiser steps; every step takes all training measurements as targets.
    lr : peak learning rate; the method's default unless given.
    weight_decay : of AdamW.
    warmup : steps of linear warm-up, before a cosine decay over ``max_steps``.
    k : references for each target, drawn anew each step.
    validate_every : steps between validations.
    patience : validations without improvement before stopping.
    seed : of everything.
    audible_decay : weight of :func:`~haa_peft.acoustics.losses.audible_decay_loss` beside the published loss.
    """

    max_steps: int = 80
    lr: float | None = None
    weight_decay: float = 1e-4
    warmup: int = 10
    k: int = 8
    validate_every: int = 10
    patience: int = 6
    seed: int = 0
    audible_decay: float = 0.0

    def __post_init__(self) -> None:
        for field, least in (("max_steps", 1), ("warmup", 0), ("k", 1), ("validate_every", 1), ("patience", 1)):
            if getattr(self, field) < least:
                flag = "--" + field.replace("_", "-")
                raise InputError(f"{flag} is {getattr(self, field)} but must be at least {least}")
        if self.lr is not None and not 0 < self.lr < 1:
            raise InputError(f"--lr is {self.lr} but must be between 0 and 1")
        if not 0 <= self.weight_decay < 100:
            raise InputError(f"--weight-decay is {self.weight_decay} but must be from 0 to 100")
        if not 0 <= self.audible_decay < 100:
            raise InputError(f"--audible-decay is {self.audible_decay} but must be from 0 to 100")
        check_seed(self.seed)


@dataclass(frozen=True)
class Adaptation:
    """What training gave: the adapter's ``config`` and best ``tensors``, and how it went."""

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

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the adapter's tensors as safetensors."""
        return len(safetensors.torch.save({name: tensor.contiguous() for name, tensor in self.tensors.items()}))


def adapt(
    backbone: XRIR,
    room: Room,
    method: MethodSettings,
    training: TrainingSettings,
    accelerator: Accelerator,
    run_folder: Path,
    *,
    resume: bool = False,
) -> Adaptation:
    """Train an adapter of a frozen backbone on a room's training measurements.

    The weights kept are those with the lowest validation loss (step 0, the backbone itself, counts); the
    backbone is given back as it was. ``run_folder`` gets ``log.jsonl`` and ``checkpoint.pt``, which holds the adapter
    and its optimiser only; with ``resume`` training goes on from it, to the same result as without a break.

    Raises
    ------
    InputError
        When there are fewer than K + 1 training measurements, fewer measurements than processes, or a
        checkpoint of other settings.
    """
    shots = len(room.splits["train"])
    check_k(training.k, shots, room.name)
    processes, rank = accelerator.num_processes, accelerator.process_index
    if processes > shots:
        raise InputError(f"{processes} processes are more than the {shots} measurements; start at most {shots}")
    lr = LEARNING_RATES[method.method] if training.lr is None else training.lr
    training = dataclasses.replace(training, lr=lr)
    base_fingerprint = fingerprint(backbone)
    adapter = attach(backbone, method, training.seed)
    try:
        objective = RoomObjective(backbone, room, audible_decay=training.audible_decay).eval()
        parameters = adapter.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=training.weight_decay, eps=ADAM_EPSILON)
        scheduler = LambdaLR(optimizer, warmup_cosine(training.warmup, training.max_steps))
        module, optimizer = accelerator.prepare(objective, optimizer)
        settings = {
            "room": room.fingerprint,
            "backbone": base_fingerprint,
            **dataclasses.asdict(method),
            **dataclasses.asdict(training),
            "precision": accelerator.mixed_precision,
        }
        checkpoint = run_folder / "checkpoint.pt"
        run = _Progress(adapter, optimizer, scheduler)
        if resume:
            run.restore(load_checkpoint(checkpoint, settings, run.state()))
        else:
            run.consider(_agreed(objective.validation_loss(training.k), accelerator), training.patience)
            if accelerator.is_main_process:
                save_checkpoint(checkpoint, {"settings": settings, **run.state()})
        log = _Log(run_folder, accelerator, run.step)
        bar = log.bar(run.step, training.max_steps)
        for step in range(run.step, training.max_steps):
            if run.stopped:
                break
            # all randomness comes from seed and step: the same for any number of processes, and after a resume
            references = torch.from_numpy(draw_references(shots, training.k, training.seed, step))
            mine = torch.arange(shots)[rank::processes]
            losses = module(mine.to(accelerator.device), references[mine].to(accelerator.device))
            # DDP averages over processes, which may hold unequal shares of the measurements
            loss = losses.sum() * processes / shots
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            run.step = step + 1
            mean_loss = float(accelerator.reduce(losses.detach().sum(), "sum")) / shots
            if not math.isfinite(mean_loss):
                raise InputError(
                    f"the loss is {mean_loss} at step {run.step}, after which nothing can be learned; nothing is "
                    "stored. Lower --lr, or look for extreme values in the RIRs"
                )
            entry: dict[str, Any] = {"step": run.step, "loss": mean_loss, "lr": scheduler.get_last_lr()[0]}
            if run.step % training.validate_every == 0 or run.step == training.max_steps:
                entry["validation"] = _agreed(objective.validation_loss(training.k), accelerator)
                run.consider(entry["validation"], training.patience)
                if accelerator.is_main_process:
                    save_checkpoint(checkpoint, {"settings": settings, **run.state()})
            log.write(entry, run.best_loss)
            bar.update()
        bar.close()
        log.close()
        return Adaptation(
            method,
            training,
            adapter.config(),
            run.best_tensors,
            base_fingerprint,
            sum(parameter.numel() for parameter in parameters),
            run.best_step,
            run.step,
            run.validation,
            run.seconds(),
            accelerator.mixed_precision,
        )
    finally:
        adapter.detach()


def _agreed(loss: float, accelerator: Accelerator) -> float:
    """The main process' loss: all stop at the same step, whatever the last bits of theirs."""
    if accelerator.num_processes == 1:
        return loss
    return float(broadcast(torch.tensor([loss], dtype=torch.float64, device=accelerator.device))[0])


class _Progress:
    """Where a run stands, and the best weights so far."""

    def __init__(self, adapter: Adapter, optimizer: Any, scheduler: LambdaLR) -> None:
        self._adapter, self._optimizer, self._scheduler = adapter, optimizer, scheduler
        self._started = time.monotonic()
        self.step, self.best_step, self.best_loss, self.stopped = 0, 0, float("inf"), False
        self.best_tensors: dict[str, Tensor] = {}
        self.validation: list[tuple[int, float]] = []

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def consider(self, loss: float, patience: int) -> None:
        """Keep the weights if they are the best, stop after ``patience`` validations without a better one."""
        if self.step == 0 and not math.isfinite(loss):
            raise InputError(
                f"the backbone's loss in this room is {loss}; check its RIRs, its positions and that the receiver is "
                "inside its surfaces"
            )
        self.validation.append((self.step, loss))
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.best_tensors = self.step, loss, self._adapter.tensors()
        since = sum(step > self.best_step for step, _ in self.validation)
        self.stopped = since >= patience

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "best_tensors": self.best_tensors,
            "stopped": self.stopped,
            "validation": self.validation,
            "seconds": self.seconds(),
            "weights": [parameter.detach().cpu() for parameter in self._adapter.parameters()],
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.best_step, self.best_loss = state["step"], state["best_step"], state["best_loss"]
        self.best_tensors, self.stopped = state["best_tensors"], state["stopped"]
        self.validation = [(int(step), loss) for step, loss in state["validation"]]
        self._started = time.monotonic() - state["seconds"]
        for parameter, saved in zip(self._adapter.parameters(), state["weights"], strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])


class _Log:
    """JSON lines and the accelerator's trackers, written by the main process."""

    def __init__(self, folder: Path, accelerator: Accelerator, step: int) -> None:
        self._accelerator = accelerator
        self._bar: Any = None
        self._file = None
        if accelerator.is_main_process:
            path = folder / "log.jsonl"
            # what was logged behind the checkpoint is done again
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step] if step and path.exists() else []
            self._file = path.open("w", encoding="utf-8")
            self._file.writelines(kept)

    def bar(self, step: int, total: int) -> Any:
        from tqdm import tqdm

        main = self._accelerator.is_main_process
        self._bar = tqdm(total=total, initial=step, unit="step", desc="adapting", disable=not main)
        return self._bar

    def write(self, entry: dict[str, Any], best: float) -> None:
        self._bar.set_postfix(loss=f"{entry['loss']:.4f}", best_validation=f"{best:.4f}")
        self._accelerator.log(entry, step=entry["step"])
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
