"""What an xRIR network is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from haa_peft.acoustics.spectrogram import N_FRAMES
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH

CHOICES = {"normalisation": ("batch", "group"), "weighting": ("published", "energy")}


@dataclass(frozen=True)
class XRIRConfig:
    """Sizes and options of :class:`~haa_peft.model.xrir.XRIR`; the defaults are the published network.

    Attributes
    ----------
    panorama_pooling : the 256 x 512 panorama is averaged over squares of this many pixels first.
    patch_height, patch_width : pixels of one token after pooling.
    width, depth, heads, head_width, feedforward : the geometry encoder (a ViT).
    channels : length of the vectors that positions, geometry and audio meet in.
    resnet_width : channels of the audio encoder's stem; its output is 8 times as long.
    audio_pooling : log-spectrograms are averaged over this many frames before they are encoded.
    normalisation : of the audio encoder, ``batch`` (published) or ``group``, which needs no batch statistics.
    weighting : how references are weighed. ``published``: softmax scores times a time code, unbounded.
        ``energy``: :class:`~haa_peft.model.heads.EnergyBlend`.
    mixing : layers of attention among references, of ``energy``.
    reflections : positions are also described by the first reflections that they get
        (:mod:`haa_peft.geometry.reflections`).
    align_before_encoding : encode references as aligned to each target (published), or as measured: then
        their features are the same for every target.
    unused_modules : keep the two modules of the published checkpoint that never run.
    """

    panorama_pooling: int = 1
    patch_height: int = 16
    patch_width: int = 32
    width: int = 512
    depth: int = 12
    heads: int = 8
    head_width: int = 64
    feedforward: int = 512
    channels: int = 256
    resnet_width: int = 64
    audio_pooling: int = 1
    normalisation: str = "batch"
    weighting: str = "published"
    mixing: int = 2
    reflections: bool = False
    align_before_encoding: bool = True
    unused_modules: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise InputError(f"XRIRConfig: {field.name} is {value!r} but must be true or false")
            elif isinstance(field.default, int):
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise InputError(f"XRIRConfig: {field.name} is {value!r} but must be an integer of at least 1")
            elif field.name in CHOICES and value not in CHOICES[field.name]:
                allowed = ", ".join(CHOICES[field.name])
                raise InputError(f"XRIRConfig: {field.name} is {value!r} but must be one of {allowed}")
        rows, columns = self.token_grid
        if (
            rows * self.patch_height * self.panorama_pooling,
            columns * self.patch_width * self.panorama_pooling,
        ) != (
            PANORAMA_HEIGHT,
            PANORAMA_WIDTH,
        ):
            raise InputError(
                f"XRIRConfig: pooling {self.panorama_pooling} and patches of {self.patch_height} x {self.patch_width} "
                f"do not tile a panorama of {PANORAMA_HEIGHT} x {PANORAMA_WIDTH} pixels"
            )
        if self.audio_pooling > N_FRAMES // 8:
            raise InputError(f"XRIRConfig: audio_pooling is {self.audio_pooling} but must be at most {N_FRAMES // 8}")
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
