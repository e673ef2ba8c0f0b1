"""Where a run stands: its best weights, its checkpoint, its log."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from haa_peft.adaptation.methods import Adapter
from haa_peft.errors import InputError


class Progress:
    """Where a run stands, and the best weights so far."""

    def __init__(self, adapter: Adapter, optimizer: Any, scheduler: LambdaLR | None) -> None:
        self._adapter, self._optimizer, self._scheduler = adapter, optimizer, scheduler
        self._started = time.monotonic()
        self.step, self.best_step, self.best_loss, self.stopped = 0, 0, float("inf"), False
        self.best_tensors: dict[str, Tensor] = {}
        self.validation: list[tuple[int, float]] = []

    def seconds(self) -> float:
        """Since the run began, breaks left out."""
        return time.monotonic() - self._started

    def keep(self) -> None:
        """Take the present weights for the best."""
        self.best_step, self.best_tensors = self.step, self._adapter.tensors()

    def consider(self, loss: float, patience: int, least_gain: float) -> None:
        """Keep the weights if they are the best; stop after ``patience`` validations that gained next to nothing."""
        if self.step == 0 and not math.isfinite(loss):
            raise InputError(
                f"the backbone's loss in this room is {loss}; check its RIRs, its positions and that the receiver is "
                "inside its surfaces"
            )
        self.validation.append((self.step, loss))
        if loss < self.best_loss:
            self.best_loss = loss
            self.keep()
        self.stopped = is_plateau([value for _, value in self.validation], patience, least_gain)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "best_tensors": self.best_tensors,
            "stopped": self.stopped,
            "validation": self.validation,
            "seconds": self.seconds(),
            "weights": self._adapter.state(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.step, self.best_step, self.best_loss = state["step"], state["best_step"], state["best_loss"]
        self.best_tensors, self.stopped = state["best_tensors"], state["stopped"]
        self.validation = [(int(step), loss) for step, loss in state["validation"]]
        self._started = time.monotonic() - state["seconds"]
        self._adapter.restore(state["weights"])
        if self._optimizer is not None and self._scheduler is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])


def is_plateau(losses: list[float], patience: int, least_gain: float) -> bool:
    """Whether the last ``patience`` losses came to no improvement of ``least_gain``, as a share, over the best before."""
    if len(losses) <= patience:
        return False
    return min(losses[-patience:]) > (1 - least_gain) * min(losses[:-patience])


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
        main = accelerator.is_main_process
        self._bar: Any = tqdm(
            total=total, initial=step, unit="step", desc=title, disable=None if main else True, mininterval=0.5
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
