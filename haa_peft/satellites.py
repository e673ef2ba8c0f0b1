"""Parts that the core goes without: folders that may be deleted, asked for by name where something needs one."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from haa_peft.errors import InputError

SATELLITES = (
    "diagnosis",
    "findings",
    "borrowing",
    "sensitivity",
    "levels",
    "rendering",
    "simulation",
    "augmentation",
    "downloads",
    "pretraining",
    "studies",
    "importing",
    "exporting",
    "hub",
    "describing",
    "maps",
    "listening",
    "page",
    "serving",
    "matching",
    "oracle",
    "geometry.estimate",
)


def has(name: str) -> bool:
    """Whether one of ``SATELLITES`` is there."""
    return (Path(__file__).parent / name.replace(".", "/") / "__init__.py").is_file()


def satellite(name: str, asked_by: str) -> ModuleType:
    """The package of one of ``SATELLITES``; ``asked_by`` is what needs it, for people.

    Raises
    ------
    InputError
        When its folder is not there; the line says which, and what needs it.
    """
    if not has(name):
        raise InputError(missing(name, asked_by))
    return importlib.import_module(f"haa_peft.{name}")


def missing(name: str, asked_by: str) -> str:
    """Which folder is not there, what needs it and what to do, in one line."""
    return f"{asked_by} needs the folder haa_peft/{name.replace('.', '/')}, which this installation is without; add it"
