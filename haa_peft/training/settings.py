"""How an adapter is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from haa_peft.errors import check_seed
from haa_peft.fields import check, setting

LEARNING_RATES = {
    "lora": 1e-2,
    "bias": 3e-3,
    "norm": 1e-1,
    "statistics": 1e-2,
    "heads": 1e-3,
    "full": 3e-4,
}
"""Those with the lowest errors at validation positions, ``recipes/studies/rates.yaml``; ``statistics`` has no steps."""
VALIDATIONS = ("auto", "positions", "leave-one-out")


@dataclass(frozen=True)
class TrainingSettings:
    """How an adapter is trained; what each setting means is said with it."""

    max_steps: int = setting(
        80, "most optimiser steps; every step takes all training measurements as targets", at_least=1
    )
    lr: float | None = setting(None, "peak learning rate (default: the method's)", above=0, below=1)
    weight_decay: float = setting(1e-4, "of AdamW, towards zero", at_least=0, below=100)
    warmup: int = setting(10, "steps of linear warm-up, before a cosine decay over all steps", at_least=0)
    k: int = setting(8, "references for each target, drawn anew each step", at_least=1)
    validate_every: int = setting(5, "steps between validations", at_least=1)
    patience: int = setting(8, "validations without improvement before stopping", at_least=1)
    min_delta: float = setting(
        1e-3, "share of the validation loss by which it must fall to count as an improvement for --patience",
        at_least=0, below=1,
    )  # fmt: skip
    caution: float = setting(
        1.0, "standard errors by which the validation loss must fall, or training is undone; Student's factor for few "
        "positions is added: 2 becomes 2.4 with nine, 4.5 with three; above 8 nothing is kept", at_least=0, at_most=100,
    )  # fmt: skip
    ema_decay: float = setting(
        0.9, "decay a step of the weights' exponential moving average, which is validated and kept; 0 for none",
        at_least=0, below=1,
    )  # fmt: skip
    seed: int = setting(0, "of all random numbers")
    audible_decay: float = setting(
        1.0, "weight of the decay curves' audible part beside the published loss", at_least=0, below=100
    )
    validation: str = setting(
        "auto", "what chooses the weights: the room's validation positions, or leave-one-out, every training "
        "measurement predicted by an adapter trained on the others; auto: positions if there are any",
        choices=VALIDATIONS,
    )  # fmt: skip
    augment: Any = None
    """What the room is varied by in every other step, an ``Augmentation``; validation sees it as it is."""

    def describe(self) -> dict[str, Any]:
        """As JSON; without ``augment`` if nothing is on, as results and cards had it before there was any."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        augment = found.pop("augment")
        on = augment and augment.to_json()
        return {**found, "augment": on} if on else found

    def of_method(self, method: str) -> TrainingSettings:
        """The same with the method's learning rate if none was given."""
        return dataclasses.replace(self, lr=LEARNING_RATES[method] if self.lr is None else self.lr)

    def __post_init__(self) -> None:
        check(self)
        check_seed(self.seed)
