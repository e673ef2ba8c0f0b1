"""Names of adapters, and where their packs lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from haa_peft.errors import InputError
from haa_peft.rooms.room import NAME_PART

STORE_VARIABLE = "HAA_PEFT_STORE"
PREVIOUS = ".previous-"
"""Marks the folder of an entry that is being replaced."""
HUB = "hf://"
"""Begins the name of an adapter on the Hugging Face Hub, ``hf://user/repository[@revision]/room/configuration``."""
_NAME = re.compile(rf"({NAME_PART})/({NAME_PART})(?:@({NAME_PART}))?")


@dataclass(frozen=True)
class AdapterName:
    """``room/configuration``, or ``room/configuration@variant``."""

    room: str
    configuration: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> AdapterName:
        """Read a name; anything that is not one, such as a path, is an ``InputError``."""
        match = _NAME.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                f"adapter name {text!r} must be room/configuration or room/configuration@variant, "
                "of letters, digits, - and _"
            )
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.room}/{self.folder_name}"

    @property
    def folder_name(self) -> str:
        """The last folder of the pack's path."""
        return self.configuration + (f"@{self.variant}" if self.variant else "")

    def folder(self, store: Path) -> Path:
        """Where the pack lies in a store."""
        return store / self.room / self.folder_name


def store_folder(given: str | Path | None = None) -> Path:
    """The store: as given, else ``$HAA_PEFT_STORE``, else ``./adapters``."""
    return Path(given or os.environ.get(STORE_VARIABLE) or "adapters")


def on_hub(name: object) -> bool:
    """Whether a name is that of an adapter on the Hub."""
    return isinstance(name, str) and name.startswith(HUB)


def list_names(store: Path) -> list[AdapterName]:
    """Every entry of a store, sorted, damaged ones too; what a killed writer left counts under its entry's name.

    Raises
    ------
    InputError
        When ``store`` is no folder.
    """
    if not store.is_dir():
        raise InputError(f"store {store} is no folder; name one with --store or ${STORE_VARIABLE}")
    names = set()
    for folder in store.glob("*/*/"):
        entry = folder.name
        if PREVIOUS in entry:
            entry = entry.removeprefix(".").split(PREVIOUS)[0]
        match = _NAME.fullmatch(f"{folder.parent.name}/{entry}")
        if match and folder.is_dir():
            names.add(AdapterName(*match.groups()))
    return sorted(names, key=str)
