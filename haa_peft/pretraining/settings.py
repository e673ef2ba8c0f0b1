"""How the backbone and the panorama network are pretrained."""

from __future__ import annotations

from dataclasses import dataclass

from haa_peft.errors import InputError, check_seed
from haa_peft.fields import check, setting
from haa_peft.simulation.draw import SOURCES_PER_ROOM

COUNT = "rooms of the corpus to train and validate on; missing ones are simulated first"


@dataclass(frozen=True)
class BackboneTraining:
    """How a backbone is pretrained."""

    count: int = setting(5000, COUNT, at_least=2)
    validation_rooms: int = setting(100, "how many of them validate: the last", at_least=1)
    max_steps: int = setting(7500, "most optimiser steps", at_least=1)
    rooms_per_step: int = setting(8, "over all processes", at_least=1)
    targets: int = setting(
        SOURCES_PER_ROOM, "positions predicted in each room", at_least=1, at_most=SOURCES_PER_ROOM
    )  # fmt: skip
    draws: int = setting(2, "draws of references for each of them", at_least=1, at_most=10**4)
    k: int = setting(8, "most references; fewer are drawn as well", at_least=1, at_most=SOURCES_PER_ROOM - 1)
    lr: float = setting(2e-3, "peak learning rate", at_least=0, below=1)
    weight_decay: float = setting(1e-2, "of AdamW, for matrices", at_least=0, below=100)
    patience: int = setting(10, "validations without a lower loss before it stops", at_least=1)
    ema: float = setting(0.995, "decay of the weights' moving average", at_least=0, below=1)
    validate_every: int = setting(500, "steps between validations", at_least=1)
    seed: int = setting(0, "of training, and of a corpus that is not there yet")

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

    count: int = setting(5000, COUNT, at_least=2)
    validation_rooms: int = setting(200, "how many of them validate: the last", at_least=1)
    draws: int = setting(4, "echo maps of each room", at_least=1, at_most=1000)
    max_steps: int = setting(6000, "optimiser steps", at_least=1)
    batch: int = setting(64, "echo maps to a step and process", at_least=1)
    lr: float = setting(2e-3, "peak learning rate", at_least=0, below=1)
    weight_decay: float = setting(5e-2, "of AdamW", at_least=0, below=100)
    level_off: float = setting(
        0.7, "standard deviation in nepers of the levels after the direct sound: loudspeakers radiate unevenly",
        at_least=0, at_most=10,
    )  # fmt: skip
    validate_every: int = setting(500, "steps between validations", at_least=1)
    seed: int = setting(0, "of training, and of a corpus that is not there yet")

    def __post_init__(self) -> None:
        check(self)
        check_seed(self.seed)
        _check_at_most("validation-rooms", self.validation_rooms, self.count - 1, "--count less one")


def _check_at_most(flag: str, value: int, most: int, why: str) -> None:
    if value > most:
        raise InputError(f"--{flag} is {value} but must be at most {most}, {why}")
