"""Write docs/settings.md, which lists every setting, from the dataclasses that define them.

    python docs/settings.py

A setting is defined once, as an annotated field of a dataclass (``haa_peft.fields``); its flag, its key in a study's
file and its check follow from there. `tests/test_settings_page.py` fails when the page is stale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from haa_peft.adapters.settings import MethodSettings
from haa_peft.augmentation.settings import LIMITS as LARGEST
from haa_peft.augmentation.settings import USUAL
from haa_peft.commands.adapt import add_arguments
from haa_peft.commands.parser import Parser
from haa_peft.fields import WORDS, choices, fields, item, kind, limits
from haa_peft.pretraining.settings import BackboneTraining, PanoramaTraining
from haa_peft.studies.plan import RunSpec, Source, Study
from haa_peft.studies.read import METHOD, TRAINING
from haa_peft.training.settings import LEARNING_RATES, TrainingSettings

PAGE = Path(__file__).with_name("settings.md")
LISTS = {int: "whole numbers", str: "texts", tuple[str, str]: "pairs of runs"}
OTHERS = {Source: "a mapping", object: "see the meaning"}
"""Kinds in words, where ``haa_peft.fields`` has none."""
INTRODUCTION = """# Settings

`python docs/settings.py` writes this page from the definitions, and a test fails when it is stale. The meaning of a
setting is also the help of its flag. What files and folders a command reads and writes is in its `--help`."""


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    if choices(field):
        return ", ".join(f"`{choice}`" for choice in choices(field))
    held = item(field)
    what = {**WORDS, **OTHERS}[kind(field)] if held is field else "a list of " + LISTS[kind(held)]
    return f"{what} {limits(held).removesuffix(' and below inf')}".strip()


def default(field: FieldInfo) -> str:
    """A setting's default; a dash where its meaning says it."""
    if field.default in (None, "", (), dataclasses.MISSING):
        return "-"
    values: Any = field.default if isinstance(field.default, tuple) else (field.default,)
    return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in values)


def table(settings: type, flags: Collection[str], keys: Collection[str]) -> str:
    """Fields of a dataclass: flags and YAML keys if any has one, defaults, limits and meanings."""
    cells = [["flag"] * bool(flags) + ["YAML key"] * bool(keys) + ["default", "allowed", "meaning"]]
    for name, field in fields(settings).items():
        flag = f"--{name.replace('_', '-')}"
        shown = [f"`{flag}`" if flag in flags else "-"] if flags else []
        shown += [f"`{name}`" if name in keys else "-"] if keys else []
        cells.append([*shown, default(field), allowed(field), (field.description or "").replace("|", "\\|")])
    return markdown(cells)


def markdown(cells: list[list[str]]) -> str:
    """A table of words, whose columns are not padded."""
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, "|---" * len(cells[0]) + "|", *rows])


def flags_of(settings: type) -> set[str]:
    """Flags of a recipe that has one for each field."""
    return {f"--{name.replace('_', '-')}" for name in fields(settings)}


def augmentations(usual: Mapping[str, Any]) -> str:
    """What ``--augment`` takes."""
    rows = [[f"`{name}`", "-" if name == "mirror" else f"{value:g}", f"{LARGEST[name]:g}" if name in LARGEST else "-"]
            for name, value in usual.items()]  # fmt: skip
    return markdown([["name", "stands for", "at most"], *rows])


def page() -> str:
    """The page as it should be."""
    parser = Parser()
    add_arguments(parser, None)
    given = {f"--{name.replace('_', '-')}" for name in vars(parser.parse_args([]))}
    by_method = zip(LEARNING_RATES["energy"], *(rates.values() for rates in LEARNING_RATES.values()), strict=True)
    rates = [[f"`{method}`", *(f"{rate:g}" for rate in row)] for method, *row in by_method]
    recipe = "Flags of `recipes/pretrain_{}.py`."
    parts = [
        INTRODUCTION,
        "## What is trained",
        "Flags of `haa-peft adapt` and of the fine-tuning recipes; keys of a run, or of `defaults`, in a study's file.",
        table(MethodSettings, given, METHOD),
        "## How it is trained",
        "In a study `k` and `seeds` belong to the study, not to a run.",
        table(TrainingSettings, given, TRAINING),
        "Learning rates unless given:",
        markdown([["method", "`small` and others of its weighting", "the published architecture"], *rates]),
        "## Variants of the room",
        "`--augment NAME=NUMBER ...`, or `augment: [NAME=NUMBER, ...]`; a name alone stands for the number here. "
        "`rotation` is in degrees, `scale` a share, all others but `mirror` in metres.",
        augmentations(USUAL),
        "## Studies",
        "Entries of a study's file beside `rooms`, `runs` and `defaults`.",
        table(Study, (), fields(Study)),
        "## Runs of a study",
        "Keys of a run beside those of the first two tables.",
        table(RunSpec, (), fields(RunSpec)),
        "## Pretraining a backbone",
        recipe.format("backbone"),
        table(BackboneTraining, flags_of(BackboneTraining), ()),
        "## Training the network for panoramas from sound",
        recipe.format("panorama"),
        table(PanoramaTraining, flags_of(PanoramaTraining), ()),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
