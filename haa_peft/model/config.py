"""What an xRIR network is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from haa_peft.acoustics.spectrogram import N_FRAMES
from haa_peft.errors import InputError
from haa_peft.fields import check
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH


@dataclass(frozen=True)
class XRIRConfig:
    """Sizes and options of :class:`~haa_peft.model.xrir.XRIR`; the defaults are the published network."""

    panorama_pooling: Annotated[int, Field(ge=1,
        description="the 256 x 512 panorama is averaged over squares of so many pixels")] = 1  # fmt: skip
    patch_height: Annotated[int, Field(ge=1, description="pixels of one token after pooling")] = 16
    patch_width: Annotated[int, Field(ge=1, description="the same")] = 32
    width: Annotated[int, Field(ge=1, description="of the geometry encoder (a ViT)")] = 512
    depth: Annotated[int, Field(ge=1, description="its layers")] = 12
    heads: Annotated[int, Field(ge=1, description="of its attention")] = 8
    head_width: Annotated[int, Field(ge=1, description="of each of them")] = 64
    feedforward: Annotated[int, Field(ge=1, description="hidden width of its feed-forward blocks")] = 512
    channels: Annotated[int, Field(ge=1,
        description="length of the vectors that positions, geometry and audio meet in")] = 256  # fmt: skip
    resnet_width: Annotated[int, Field(ge=1,
        description="channels of the audio encoder's stem; its output is 8 times as long")] = 64  # fmt: skip
    audio_pooling: Annotated[int, Field(ge=1, le=N_FRAMES // 8,
        description="log-spectrograms are averaged over this many frames before they are encoded")] = 1  # fmt: skip
    normalisation: Annotated[Literal["batch", "group"], Field(
        description="of the audio encoder; group, unlike the published batch, needs no batch "
        "statistics")] = "batch"  # fmt: skip
    weighting: Annotated[Literal["published", "energy"], Field(
        description="of references: softmax scores times a time code, unbounded, or energy, an "
        "EnergyBlend")] = "published"  # fmt: skip
    mixing: Annotated[int, Field(ge=1, description="layers of attention among references, of energy")] = 2
    reflections: Annotated[bool, Field(
        description="describe positions by the first reflections that they get too")] = False  # fmt: skip
    align_before_encoding: Annotated[bool, Field(
        description="encode references as aligned to each target (published); as measured, they are the same for every "
        "target")] = True  # fmt: skip
    unused_modules: Annotated[bool, Field(
        description="keep the two modules of the published checkpoint that never run")] = True  # fmt: skip

    def __post_init__(self) -> None:
        check(self, "XRIRConfig: ")
        rows, columns = self.token_grid
        high, wide = rows * self.patch_height, columns * self.patch_width
        if (high * self.panorama_pooling, wide * self.panorama_pooling) != (PANORAMA_HEIGHT, PANORAMA_WIDTH):
            raise InputError(
                f"XRIRConfig: pooling {self.panorama_pooling} and patches of {self.patch_height} x {self.patch_width} "
                f"do not tile a panorama of {PANORAMA_HEIGHT} x {PANORAMA_WIDTH} pixels"
            )
        for name in ("width", "resnet_width", "channels"):
            if getattr(self, name) % 4:
                raise InputError(f"XRIRConfig: {name} is {getattr(self, name)} but must be a multiple of 4")

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return (
            PANORAMA_HEIGHT // self.panorama_pooling // self.patch_height,
            PANORAMA_WIDTH // self.panorama_pooling // self.patch_width,
        )

    @classmethod
    def from_dict(cls, values: dict, where: str) -> XRIRConfig:
        """Read a configuration from JSON values; ``InputError`` names unknown fields, and ``where`` they were found."""
        if not isinstance(values, dict):
            raise InputError(f"{where}: the configuration is {values!r:.40} but must be a JSON object")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"{where}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)
