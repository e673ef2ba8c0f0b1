"""Facts of the fourteen configurations of Hearing Anything Anywhere (HAA; CVPR 2024, CC BY 4.0)."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources

import numpy as np

SAMPLE_RATE = 48_000
SOURCE = "a folder in the layout of Hearing Anything Anywhere (Zenodo record 11195833), origin not known"
LICENCE = "CC-BY-4.0 if they are the record's"


@cache
def haa_facts() -> dict[str, dict]:
    """Per folder name: ``n``, ``speaker_xyz`` (m), ``train_indices``, ``valid_indices``, ``surfaces``."""
    text = resources.files("haa_peft.rooms").joinpath("haa_facts.json").read_text(encoding="utf-8")
    return json.loads(text)


def room_and_configuration(folder_name: str) -> tuple[str, str]:
    """``hallwayPanel1`` -> ``("hallway", "panel1")``."""
    match = re.fullmatch(r"([a-z]+)([A-Z]\w*)", folder_name)
    if match is None:
        raise ValueError(folder_name)
    return match[1], match[2].lower()


def haa_splits(folder_name: str) -> dict[str, np.ndarray]:
    """The HAA authors' split: indices (M,), their own for training and validation, all others test."""
    facts = haa_facts()[folder_name]
    train, valid = np.array(facts["train_indices"]), np.array(facts["valid_indices"])
    test = np.setdiff1d(np.arange(facts["n"]), np.concatenate([train, valid]))
    return {"train": train, "valid": valid, "test": test}
