"""How an adapter is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from haa_peft.errors import InputError, check_seed

LEARNING_RATES = {
    "lora": 1e-2,
    "rslora": 6e-3,
    "dora": 6e-3,
    "loha": 1e-2,
    "lokr": 1e-2,
    "ia3": 1e-1,
    "beft": 3e-3,
    "bias": 3e-3,
    "norm": 1e-1,
    "statistics": 1e-2,
    "heads": 1e-3,
    "full": 3e-4,
    "l2sp": 3e-4,
}
"""Those with the lowest errors at validation positions, ``recipes/studies/rates.yaml``; ``statistics`` has no steps."""
WEIGHT_DECAYS = {"l2sp": 10.0}
"""Of methods whose default is not ``DECAY``."""
DECAY = 1e-4
VALIDATIONS = ("auto", "positions", "leave-one-out")


@dataclass(frozen=True)
class TrainingSettings:
    """How an adapter is trained.

    Attributes
    ----------
    max_steps : most optimiser steps; every step takes all training measurements as targets.
    lr : peak learning rate; the method's default unless given.
    weight_decay : of AdamW, towards zero; of ``l2sp`` towards the backbone. The method's default unless given.
    warmup : steps of linear warm-up, before a cosine decay over ``max_steps``.
    k : references for each target, drawn anew each step.
    validate_every : steps between validations.
    patience : validations without improvement before stopping.
    least_gain : share of the validation loss that an improvement must be of to count against ``patience``; on a plateau
        of smaller ones training stops too.
    caution : standard errors by which the validation losses must have fallen, or training is undone; more of few
        positions, and above 8 for certain (:func:`~haa_peft.training.acceptance.least_fall`).
    averaging : the weights that are validated and kept are running averages with this decay a step; 0 for none.
    seed : of everything.
    audible_decay : weight of :func:`~haa_peft.acoustics.losses.audible_decay_loss` beside the published loss.
    validation : what chooses the weights: ``positions``, the room's validation positions; ``leave-one-out``, the
        training measurements, each predicted by an adapter that was trained on the others; or ``auto``, the former
        where there are any.
    augment : what the room is varied by in every other step (:func:`haa_peft.augmentation.augmentation`), None for
        nothing; validation sees it as it is.
    """

    max_steps: int = 80
    lr: float | None = None
    weight_decay: float | None = None
    warmup: int = 10
    k: int = 8
    validate_every: int = 5
    patience: int = 8
    least_gain: float = 1e-3
    caution: float = 1.0
    averaging: float = 0.9
    seed: int = 0
    audible_decay: float = 1.0
    validation: str = "auto"
    augment: Any = None

    def describe(self) -> dict[str, Any]:
        """As JSON; without ``augment`` if nothing is on, as results and cards had it before there was any."""
        found = dataclasses.asdict(self)
        on = found.pop("augment") and self.augment.to_json()
        return {**found, "augment": on} if on else found

    def of_method(self, method: str) -> TrainingSettings:
        """The same with the method's defaults where nothing was given."""
        lr = LEARNING_RATES[method] if self.lr is None else self.lr
        decay = WEIGHT_DECAYS.get(method, DECAY) if self.weight_decay is None else self.weight_decay
        return dataclasses.replace(self, lr=lr, weight_decay=decay)

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 1), ("warmup", 0), ("k", 1), ("validate_every", 1), ("patience", 1)):
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is {getattr(self, name)} but must be at least {least}")
        if self.lr is not None and not 0 < self.lr < 1:
            raise InputError(f"--lr is {self.lr} but must be between 0 and 1")
        if self.weight_decay is not None and not 0 <= self.weight_decay < 100:
            raise InputError(f"--weight-decay is {self.weight_decay} but must be from 0 to 100")
        if not 0 <= self.least_gain < 1:
            raise InputError(f"--least-gain is {self.least_gain} but must be from 0 to 1")
        if not 0 <= self.caution <= 100:
            raise InputError(f"--caution is {self.caution} but must be from 0 to 100")
        if not 0 <= self.averaging < 1:
            raise InputError(f"--averaging is {self.averaging} but must be at least 0 and below 1")
        if not 0 <= self.audible_decay < 100:
            raise InputError(f"--audible-decay is {self.audible_decay} but must be from 0 to 100")
        if self.validation not in VALIDATIONS:
            raise InputError(f"--validation is {self.validation!r} but must be one of {', '.join(VALIDATIONS)}")
        check_seed(self.seed)
