"""Names of adapters, and where their packs lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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


def iterate_names(store: Path, room: str | None = None) -> Iterator[AdapterName]:
    """Entries of a store, sorted, damaged ones too; what a killed writer left counts under its entry's name.

    Folders of other rooms are looked into only when their turn comes.

    Parameters
    ----------
    store : folder of adapters.
    room : whose entries are wanted; those of all rooms unless given.

    Raises
    ------
    InputError
        When ``store`` is no folder.
    """
    check_store(store)
    rooms = _folders(store) if room is None else [room]
    for one in sorted(rooms, key=lambda folder: f"{folder}/"):
        names = set()
        for folder in _folders(store / one):
            entry = folder.removeprefix(".").split(PREVIOUS)[0] if PREVIOUS in folder else folder
            match = _NAME.fullmatch(f"{one}/{entry}")
            if match:
                names.add(AdapterName(*match.groups()))
        yield from sorted(names, key=str)


def some_names(store: Path, most: int) -> list[AdapterName]:
    """So many entries of a store or fewer, whichever are found first, without looking at all."""
    check_store(store)
    rooms = (entry.name for entry in os.scandir(store) if entry.is_dir())
    every = (name for room in rooms if re.fullmatch(NAME_PART, room) for name in iterate_names(store, room))
    return list(islice(every, most))


def check_store(store: Path) -> None:
    """Raise ``InputError`` unless a store is a folder."""
    if not store.is_dir():
        raise InputError(f"store {store} is no folder; name one with --store or ${STORE_VARIABLE}")


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder; none where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
