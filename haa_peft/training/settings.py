"""How an adapter is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from haa_peft.errors import check_seed
from haa_peft.fields import check

LEARNING_RATES = {
    "energy": {"lora": 1e-2, "bias": 3e-3, "norm": 1e-1, "statistics": 1e-2, "heads": 1e-3, "full": 3e-4},
    "published": {"lora": 1e-2, "bias": 3e-3, "norm": 1e-2, "statistics": 1e-2, "heads": 1e-3, "full": 1e-4},
}
"""By the backbone's weighting and the method, those with the lowest errors at validation positions of
``recipes/studies/rates.yaml`` and ``rates-published.yaml``; ``statistics`` has no steps."""


@dataclass(frozen=True)
class TrainingSettings:
    """How an adapter is trained; what each setting means is said with it."""

    max_steps: Annotated[int, Field(ge=1,
        description="most optimiser steps; every step takes all training measurements as targets")] = 80  # fmt: skip
    lr: Annotated[
        float | None, Field(gt=0, lt=1, description="peak learning rate (default: that of method and backbone)")
    ] = None
    weight_decay: Annotated[float, Field(ge=0, lt=100, description="of AdamW, towards zero")] = 1e-4
    warmup: Annotated[int, Field(ge=0,
        description="steps of linear warm-up, before a cosine decay over all steps")] = 10  # fmt: skip
    k: Annotated[int, Field(ge=1, description="references for each target, drawn anew each step")] = 8
    validate_every: Annotated[int, Field(ge=1, description="steps between validations")] = 5
    patience: Annotated[int, Field(ge=1, description="validations without improvement before stopping")] = 8
    min_delta: Annotated[float, Field(ge=0, lt=1,
        description="share of the validation loss by which it must fall to count as an improvement for "
        "--patience")] = 1e-3  # fmt: skip
    caution: Annotated[float, Field(ge=0, le=100,
        description="standard errors by which the validation loss must fall, or training is undone; Student's factor "
        "for few positions is added: 2 becomes 2.4 with nine, 4.5 with three; above 8 nothing is "
        "kept")] = 1.0  # fmt: skip
    ema_decay: Annotated[float, Field(ge=0, lt=1,
        description="decay a step of the weights' exponential moving average, which is validated and kept; 0 for "
        "none")] = 0.9  # fmt: skip
    seed: Annotated[int, Field(description="of all random numbers")] = 0
    audible_decay: Annotated[float, Field(ge=0, lt=100,
        description="weight of the decay curves' audible part beside the published loss")] = 1.0  # fmt: skip
    validation: Annotated[Literal["auto", "positions", "leave-one-out"], Field(
        description="what chooses the weights: the room's validation positions, or leave-one-out, every training "
        "measurement predicted by an adapter trained on the others; auto: positions if there are "
        "any")] = "auto"  # fmt: skip
    augment: Any = None
    """What the room is varied by in every other step, an ``Augmentation``; validation sees it as it is."""

    def describe(self) -> dict[str, Any]:
        """As JSON; without ``augment`` if nothing is on, as results and cards had it before there was any."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        augment = found.pop("augment")
        on = augment and augment.to_json()
        return {**found, "augment": on} if on else found

    def of_method(self, method: str, weighting: str) -> TrainingSettings:
        """The same with the method's learning rate if none was given, for a backbone with this weighting."""
        return dataclasses.replace(self, lr=LEARNING_RATES[weighting][method] if self.lr is None else self.lr)

    def __post_init__(self) -> None:
        check(self)
        check_seed(self.seed)
