"""Where a run stands: its best weights, its checkpoint, its log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from haa_peft.adapters.methods import Adapter
from haa_peft.errors import InputError
from haa_peft.training.acceptance import Acceptance


class Average:
    """Running average of an adapter's trained weights, which a step moves by ``1 - decay`` of the way.

    References are drawn anew every step, so single steps are noisy; their average is not (Polyak and Juditsky 1992).
    The first steps count more, so that the start is soon forgotten.
    """

    def __init__(self, adapter: Adapter, decay: float) -> None:
        self._parameters, self._decay = adapter.parameters(), decay
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the ``step``-th step, counted from 1."""
        share = 1 - min(self._decay, step / (step + 2))
        for tensor, parameter in zip(self.tensors, self._parameters, strict=True):
            tensor.lerp_(parameter, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages inside the block, the weights themselves again after it."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._set(self.tensors)
        try:
            yield
        finally:
            self._set(own)

    def restore(self, tensors: list[Tensor]) -> None:
        """Go on from averages that were kept: ``tensors`` (...,), each of the shape of its weight."""
        for mine, kept in zip(self.tensors, tensors, strict=True):
            mine.copy_(kept)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


class Progress:
    """Where a run stands, and the best weights so far."""

    def __init__(self, adapter: Adapter, optimizer: Any, scheduler: LambdaLR | None, average: Average) -> None:
        self._adapter, self._optimizer, self._scheduler = adapter, optimizer, scheduler
        self._average = average
        self._started = time.monotonic()
        self.step, self.best_step, self.best_loss, self.stopped = 0, 0, float("inf"), False
        self.best_tensors: dict[str, Tensor] = {}
        self._first_tensors = adapter.tensors()  # the same in a resumed run
        self.first: list[float] = []
        self.best: list[float] = []
        self.validation: list[tuple[int, float]] = []

    def seconds(self) -> float:
        """Since the run began, breaks left out."""
        return time.monotonic() - self._started

    def keep(self) -> None:
        """Take the present weights for the best."""
        self.best_step, self.best_tensors = self.step, self._adapter.tensors()

    def consider(self, losses: list[float], patience: int, min_delta: float) -> None:
        """Keep the weights if they are the best; stop after ``patience`` validations that gained next to nothing.

        ``losses`` are those at the validation positions; ``InputError`` if they are not finite before the first step.
        """
        loss = sum(losses) / len(losses)
        if self.step == 0 and not math.isfinite(loss):
            raise InputError(
                f"the backbone's loss in this room is {loss}; check its RIRs, its positions and that the receiver is "
                "inside its surfaces"
            )
        self.validation.append((self.step, loss))
        if self.step == 0:
            self.first = losses
        if loss < self.best_loss:
            self.best_loss, self.best = loss, losses
            self.keep()
        self.stopped = is_plateau([value for _, value in self.validation], patience, min_delta)

    def settle(self, caution: float) -> Acceptance | None:
        """Go back to the start unless the best weights beat it by ``caution`` standard errors; None without losses."""
        if not self.first:
            return None
        found = Acceptance.of(self.first, self.best, self.best_step, caution)
        if not found.accepted:
            self.best_step, self.best_tensors = 0, self._first_tensors
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "best_tensors": self.best_tensors,
            "first": self.first,
            "best": self.best,
            "stopped": self.stopped,
            "validation": self.validation,
            "seconds": self.seconds(),
            "weights": self._adapter.state(),
            "average": [tensor.cpu() for tensor in self._average.tensors],
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.step, self.best_step, self.best_loss = state["step"], state["best_step"], state["best_loss"]
        self.best_tensors, self.stopped = state["best_tensors"], state["stopped"]
        self.first, self.best = state["first"], state["best"]
        self.validation = [(int(step), loss) for step, loss in state["validation"]]
        self._started = time.monotonic() - state["seconds"]
        self._adapter.restore(state["weights"])
        self._average.restore(state["average"])
        if self._optimizer is not None and self._scheduler is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])


def is_plateau(losses: list[float], patience: int, min_delta: float) -> bool:
    """Whether the last ``patience`` losses improved on the best before by less than a share of ``min_delta``."""
    if len(losses) <= patience:
        return False
    return min(losses[-patience:]) > (1 - min_delta) * min(losses[:-patience])


class Log:
    """JSON lines, a progress bar and the accelerator's trackers, written by the main process."""

    def __init__(self, folder: Path, accelerator: Accelerator, step: int, total: int, title: str) -> None:
        from tqdm import tqdm

        self._accelerator = accelerator
        self._file = None
        if accelerator.is_main_process:
            path = folder / "log.jsonl"
            # what was logged behind the checkpoint is done again
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step] if step and path.exists() else []
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
            self._file.writelines(kept)
        silent = not accelerator.is_main_process or "TQDM_DISABLE" in os.environ  # or where it is no terminal: None
        self._bar: Any = tqdm(
            total=total, initial=step, unit="step", desc=title, disable=silent or None, mininterval=0.5
        )

    def write(self, entry: dict[str, Any], best: float) -> None:
        """One step."""
        shown = {"loss": f"{entry['loss']:.4f}"} | ({"best_validation": f"{best:.4f}"} if math.isfinite(best) else {})
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        self._accelerator.log(entry, step=entry["step"])
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Finish."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
