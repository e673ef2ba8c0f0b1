"""How the backbone and the panorama network are pretrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from haa_peft.errors import InputError, check_seed
from haa_peft.fields import check
from haa_peft.simulation.draw import SOURCES_PER_ROOM

COUNT = "rooms of the corpus to train and validate on; missing ones are simulated first"


@dataclass(frozen=True)
class BackboneTraining:
    """How a backbone is pretrained."""

    count: Annotated[int, Field(ge=2, description=COUNT)] = 5000
    validation_rooms: Annotated[int, Field(ge=1, description="how many of them validate: the last")] = 100
    max_steps: Annotated[int, Field(ge=1, description="most optimiser steps")] = 7500
    rooms_per_step: Annotated[int, Field(ge=1, description="over all processes")] = 8
    targets: Annotated[int, Field(ge=1, le=SOURCES_PER_ROOM,
        description="positions predicted in each room")] = SOURCES_PER_ROOM  # fmt: skip
    draws: Annotated[int, Field(ge=1, le=10**4, description="draws of references for each of them")] = 2
    k: Annotated[int, Field(ge=1, le=SOURCES_PER_ROOM - 1, description="most references; fewer are drawn as well")] = 8
    lr: Annotated[float, Field(ge=0, lt=1, description="peak learning rate")] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, lt=100, description="of AdamW, for matrices")] = 1e-2
    patience: Annotated[int, Field(ge=1, description="validations without a lower loss before it stops")] = 10
    ema: Annotated[float, Field(ge=0, lt=1, description="decay of the weights' moving average")] = 0.995
    validate_every: Annotated[int, Field(ge=1, description="steps between validations")] = 500
    freeze_norm_after: Annotated[int | None, Field(ge=1,
        description="steps after which BatchNorm keeps its statistics and trains with them, as it evaluates "
        "(default: never)")] = None  # fmt: skip
    seed: Annotated[int, Field(description="of training, and of a corpus that is not there yet")] = 0

    def __post_init__(self) -> None:
        check(self)
        check_seed(self.seed)
        _check_at_most("validation-rooms", self.validation_rooms, self.count - 1, "--count less one")
        _check_at_most(
            "rooms-per-step", self.rooms_per_step, self.count - self.validation_rooms, "--count less --validation-rooms"
        )


@dataclass(frozen=True)
class PanoramaTraining:
    """How the network that estimates panoramas from sound is trained."""

    count: Annotated[int, Field(ge=2, description=COUNT)] = 5000
    validation_rooms: Annotated[int, Field(ge=1, description="how many of them validate: the last")] = 200
    draws: Annotated[int, Field(ge=1, le=1000, description="echo maps of each room")] = 4
    max_steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 6000
    batch: Annotated[int, Field(ge=1, description="echo maps to a step and process")] = 64
    lr: Annotated[float, Field(ge=0, lt=1, description="peak learning rate")] = 2e-3
    weight_decay: Annotated[float, Field(ge=0, lt=100, description="of AdamW")] = 5e-2
    level_off: Annotated[float, Field(ge=0, le=10,
        description="standard deviation in nepers of the levels after the direct sound: loudspeakers radiate "
        "unevenly")] = 0.7  # fmt: skip
    validate_every: Annotated[int, Field(ge=1, description="steps between validations")] = 500
    seed: Annotated[int, Field(description="of training, and of a corpus that is not there yet")] = 0

    def __post_init__(self) -> None:
        check(self)
        check_seed(self.seed)
        _check_at_most("validation-rooms", self.validation_rooms, self.count - 1, "--count less one")


def _check_at_most(flag: str, value: int, most: int, why: str) -> None:
    if value > most:
        raise InputError(f"--{flag} is {value} but must be at most {most}, {why}")
