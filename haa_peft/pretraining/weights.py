"""A backbone as pretraining makes it: its configuration, its weights as a file, and the story of how they were made."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path

from safetensors.torch import save

from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.model.checkpoint import BUNDLED, CONFIG_KEY
from haa_peft.model.config import XRIRConfig
from haa_peft.model.xrir import XRIR

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


def provenance(source: str | Path = "small") -> dict:
    """What the JSON beside a backbone's weights says of how they were made; empty where there is none."""
    name = f"{source}.json" if str(source) in BUNDLED else Path(source).with_suffix(".json").name
    folder = resources.files("haa_peft.model") / "weights" if str(source) in BUNDLED else Path(source).parent
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def save_backbone(backbone: XRIR, path: Path) -> None:
    """Write weights as safetensors, with their configuration in the header, as they are loaded again.

    Raises ``InputError`` where an adapter that reads extra channels was merged in: such a file has no place for them.
    """
    if backbone.source_network.surface_embedding.weight.any():
        raise InputError(f"{path}: an adapter that reads --channels is merged in, which no checkpoint can hold")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    config = json.dumps(dataclasses.asdict(backbone.config))
    write_atomically(path, save(tensors, metadata={CONFIG_KEY: config}))


def seeds_seen(made: dict) -> set[int]:
    """Seeds of the simulated corpora that a backbone and those that it was started from have learned from."""
    seeds: set[int] = set()
    story: object = made
    while isinstance(story, dict):
        corpus = story.get("corpus")
        if isinstance(corpus, dict) and isinstance(corpus.get("seed"), int):
            seeds.add(corpus["seed"])
        story = story.get("start")
    return seeds
