"""What an xRIR network is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from haa_peft.acoustics.spectrogram import N_FRAMES
from haa_peft.errors import InputError
from haa_peft.fields import check, setting
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH


@dataclass(frozen=True)
class XRIRConfig:
    """Sizes and options of :class:`~haa_peft.model.xrir.XRIR`; the defaults are the published network."""

    panorama_pooling: int = setting(1, "the 256 x 512 panorama is averaged over squares of so many pixels", at_least=1)
    patch_height: int = setting(16, "pixels of one token after pooling", at_least=1)
    patch_width: int = setting(32, "the same", at_least=1)
    width: int = setting(512, "of the geometry encoder (a ViT)", at_least=1)
    depth: int = setting(12, "its layers", at_least=1)
    heads: int = setting(8, "of its attention", at_least=1)
    head_width: int = setting(64, "of each of them", at_least=1)
    feedforward: int = setting(512, "hidden width of its feed-forward blocks", at_least=1)
    channels: int = setting(256, "length of the vectors that positions, geometry and audio meet in", at_least=1)
    resnet_width: int = setting(64, "channels of the audio encoder's stem; its output is 8 times as long", at_least=1)
    audio_pooling: int = setting(
        1, "log-spectrograms are averaged over this many frames before they are encoded", at_least=1,
        at_most=N_FRAMES // 8,
    )  # fmt: skip
    normalisation: str = setting(
        "batch", "of the audio encoder; group, unlike the published batch, needs no batch statistics",
        choices=("batch", "group"),
    )  # fmt: skip
    weighting: str = setting(
        "published", "of references: softmax scores times a time code, unbounded, or energy, an EnergyBlend",
        choices=("published", "energy"),
    )  # fmt: skip
    mixing: int = setting(2, "layers of attention among references, of energy", at_least=1)
    reflections: bool = setting(False, "describe positions by the first reflections that they get too")
    align_before_encoding: bool = setting(
        True, "encode references as aligned to each target (published); as measured, they are the same for every target"
    )
    unused_modules: bool = setting(True, "keep the two modules of the published checkpoint that never run")

    def __post_init__(self) -> None:
        check(self, "XRIRConfig: {}")
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


SMALL = XRIRConfig(
    panorama_pooling=8,
    patch_height=4,
    patch_width=8,
    width=64,
    depth=2,
    heads=2,
    head_width=32,
    feedforward=128,
    channels=128,
    resnet_width=8,
    audio_pooling=4,
    normalisation="group",
    weighting="energy",
    reflections=True,
    align_before_encoding=False,
    unused_modules=False,
)
"""What the bundled backbone of that name is made of."""
