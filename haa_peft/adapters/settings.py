"""How a backbone is adapted, as a person says it; needs neither peft nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

from pydantic import Field

from haa_peft.errors import InputError
from haa_peft.fields import check
from haa_peft.geometry.channels import parse_channels

Method = Literal["lora", "bias", "norm", "statistics", "heads", "full"]
METHODS: dict[Method, str] = {
    "lora": "low-rank updates (Hu et al. 2021, arXiv 2106.09685)",
    "bias": "the biases that exist",
    "norm": "scales and shifts of all norms, and BatchNorm's statistics",
    "statistics": "BatchNorm's statistics alone, taken anew in the room (Li et al. 2016, arXiv 1603.04779)",
    "heads": "everything but the two encoders",
    "full": "all weights",
}
LARGEST_RANK = 4096


@dataclass(frozen=True)
class MethodSettings:
    """How a backbone is adapted; what each setting means is said with it."""

    method: Annotated[Method, Field(description="what is trained")] = "lora"
    rank: Annotated[int, Field(ge=1, le=LARGEST_RANK, description="rank of the updates")] = 4
    alpha: Annotated[float | None, Field(gt=0, lt=inf,
        description="scales the updates by ALPHA / RANK (default: twice the rank)")] = None  # fmt: skip
    ranks: Annotated[Mapping[str, int], Field(
        description="ranks of layers by the beginning of their names, of which the longest counts; 0 leaves a layer "
        "alone; alpha grows with the rank (energy_blend=8)")] = field(default_factory=dict)  # fmt: skip
    convolutions: Annotated[bool, Field(description="adapt the audio encoder's convolutions too")] = False
    dropout: Annotated[float, Field(ge=0, lt=1, description="share dropped before the updates in training")] = 0.0
    freeze: Annotated[str, Field(
        description="layers left alone: early:N, late:N, none, or auto, which measures what serves the "
        "simulation")] = "none"  # fmt: skip
    levels: Annotated[Literal["fitted", "none"], Field(
        description="levels of what is predicted, in octaves and spans of time: fitted to the measurements, with the "
        "directivity of what stands at the receiver, or none")] = "fitted"  # fmt: skip
    channels: Annotated[str, Field(
        description="what the network reads of surfaces beside their coordinates: normals, materials (where planes or "
        "a mesh have them), or normals,materials")] = "none"  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        for name, rank in self.ranks.items():
            if not 0 <= rank <= LARGEST_RANK:
                raise InputError(f"--ranks {name}={rank} but a rank must be from 0 to {LARGEST_RANK}")
        is_lora = self.method == "lora"
        for given, possible, flag in (
            (bool(self.ranks), is_lora, "--ranks"),
            (self.convolutions, is_lora, "--convolutions"),
            (self.dropout > 0, is_lora, "--dropout"),
            (bool(parse_channels(self.channels)), self.method != "statistics", "--channels"),
        ):
            if given and not possible:
                raise InputError(f"{flag} does not go with {self.method}; leave it out or choose another method")
        parse_freeze(self.freeze)

    def describe(self) -> dict:
        """What matters of it for this method."""
        found: dict = {"method": self.method}
        if self.method == "lora":
            found |= {"rank": self.rank, "alpha": self.scale * self.rank, "ranks": dict(self.ranks)}
            found |= {"convolutions": self.convolutions, "dropout": self.dropout}
        found |= {"freeze": self.freeze} if self.levels == "none" else {"freeze": self.freeze, "levels": self.levels}
        channels = parse_channels(self.channels)
        return {**found, "channels": ",".join(channels)} if channels else found

    @property
    def scale(self) -> float:
        """Alpha divided by rank."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


def parse_freeze(freeze: str) -> tuple[str, int]:
    """``early:N``, ``late:N`` -> (which, N); ``none``, ``auto`` -> (which, 0); ``InputError`` for anything else."""
    which, _, count = freeze.partition(":")
    if which in ("none", "auto") and freeze == which:
        return which, 0
    if which in ("early", "late") and count.isdecimal() and int(count) > 0:
        return which, int(count)
    raise InputError(f"--freeze is {freeze!r} but must be early:N, late:N (N at least 1), none or auto")
