"""The layers of a backbone in the order that data passes them, and which of them an adapter leaves alone."""

from __future__ import annotations

import re

from haa_peft.adapters.settings import parse_freeze
from haa_peft.errors import InputError
from haa_peft.model.xrir import XRIR

UNUSED = ("source_proj", "audio_enc.cnn.fc_backup")
"""Modules of the published checkpoint that never run."""
ORDER = (
    "source_network", "src_proj", "lin_proj_0", "audio_enc", "src_coord_proj", "reflection_proj", "lin_proj_1",
    "lin_proj_2", "time_proj", "energy_blend",
)  # fmt: skip
"""Modules of :class:`XRIR`: what is seen, what is heard, and the heads that join them."""
LAST = ("source_network.transformer.norm", "energy_blend")
"""The last layers of their modules."""
SURFACES = "source_network.surface_embedding"
"""What an adapter adds for channels behind the coordinates: none of the backbone's layers, and never left alone."""
_LAYER = re.compile(
    r"source_network\.(to_patch_embedding|surface_embedding|transformer\.(layers\.\d+|norm))"
    r"|audio_enc\.cnn\.layer\d\.\d+|audio_enc\.cnn|energy_blend\.(pair|mixing\.\d+)|[a-z_0-9]+"
)


def layer_of(name: str) -> str:
    """The layer that a parameter or module belongs to, by its full name."""
    match = _LAYER.match(name)
    if match is None:
        raise ValueError(f"{name!r} is no name of this network")
    return match.group()


def layer_names(backbone: XRIR) -> list[str]:
    """All layers that run, first to last: the geometry encoder, the audio encoder, the heads."""
    left_out = (*UNUSED, SURFACES)
    found = dict.fromkeys(layer_of(name) for name, _ in backbone.named_parameters() if not name.startswith(left_out))
    return sorted(found, key=lambda layer: (ORDER.index(layer.split(".")[0]), layer in LAST))


def untouched_layers(backbone: XRIR, config: dict) -> list[str]:
    """Layers that an ``adapter_config.json`` leaves alone."""
    names = config.get("target_modules") or config.get("parameters") or []
    return [layer for layer in layer_names(backbone) if layer not in set(map(layer_of, names))]


def frozen_layers(backbone: XRIR, freeze: str) -> list[str]:
    """The first or last N layers of ``early:N`` or ``late:N``; of ``auto`` see :mod:`haa_peft.sensitivity`.

    Raises
    ------
    InputError
        When ``freeze`` is not of this form or leaves no layer.
    """
    which, count = parse_freeze(freeze)
    layers = layer_names(backbone)
    if count >= len(layers):
        raise InputError(f"--freeze {freeze} would freeze all {len(layers)} layers; give at most {len(layers) - 1}")
    return {"none": [], "early": layers[:count], "late": layers[len(layers) - count :]}[which]
