"""Packs on disk: written whole or not at all, read whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from haa_peft.errors import InputError
from haa_peft.files import NotPlainError, lock, read_plain
from haa_peft.store.card import parse_card
from haa_peft.store.names import PREVIOUS, AdapterName, some_names
from haa_peft.store.pack import RoomPack
from haa_peft.store.pack_files import from_files, to_files
from haa_peft.store.parts import CARD, LARGEST_BYTES, damaged, listed_files, sha256

ATTEMPTS = 20
PAUSE = 0.02
"""Seconds between attempts to read an entry that is being replaced."""
MOST_NAMES = 5
"""Of those that an error lists."""


def write_pack(store: Path, pack: RoomPack) -> Path:
    """Store a pack under its name, in place of what was there; see :func:`write_files`."""
    return write_files(store, pack.name, to_files(pack))


def write_files(store: Path, name: AdapterName, files: Mapping[str, bytes]) -> Path:
    """Store the files of a pack under its name, in place of what was there.

    The files are written beside the entry and the folder is renamed, so a full disk or an interruption leaves the
    old entry; in the instant between two renames it is found under its ``.previous`` name. What killed writers left is
    removed.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    target = name.folder(store)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _new_folder(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); nothing is changed") from None
    try:
        for file_name, content in files.items():
            with (temporary / file_name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        _swap(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); the old adapter is unchanged") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        handle.close()
    return target


def _new_folder(target: Path) -> tuple[Path, ExitStack]:
    """A folder beside an entry, locked until the handle is closed or the process ends; those without a lock go."""
    for stale in target.parent.glob(f".{target.name}.new-*"):
        with ExitStack() as handle:
            if lock(stale, handle):
                shutil.rmtree(stale, ignore_errors=True)
    while True:
        folder, handle = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new-")), ExitStack()
        if lock(folder, handle) is not False and folder.exists():
            return folder, handle
        handle.close()  # another writer took it for a killed one's


def _swap(temporary: Path, target: Path) -> None:
    for _ in range(ATTEMPTS):
        previous = target.with_name(f".{target.name}{PREVIOUS}{temporary.name[-8:]}")
        try:
            target.rename(previous)
            moved = True
        except FileNotFoundError:  # nothing is there, or another writer is just replacing it
            moved = False
        try:
            temporary.rename(target)
        except OSError:
            if target.exists():  # another writer was faster: replace that one
                shutil.rmtree(previous, ignore_errors=True)
                continue
            if moved:
                previous.rename(target)
            raise
        for stale in _previous(target):
            shutil.rmtree(stale, ignore_errors=True)
        return
    raise OSError(0, "other processes keep replacing it")


def _previous(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}{PREVIOUS}")]


def read_files(store: Path, name: AdapterName) -> dict[str, bytes]:
    """All files of one state of an entry, also while another process replaces it.

    Raises
    ------
    InputError
        When there is no such entry, it cannot be read, or its files are not those that its card describes.
    """
    target = name.folder(store)
    last_error, absent = "", 0
    for _ in range(ATTEMPTS):
        try:
            folder = target if target.exists() else next(iter(_previous(target)))
            files = {CARD: read_plain(folder / CARD, LARGEST_BYTES[CARD])}
            card = parse_card(name, files[CARD])
            described, wanted = card["files"], listed_files(card)
            files |= {file_name: read_plain(folder / file_name, LARGEST_BYTES[file_name]) for file_name in wanted}
        except (FileNotFoundError, NotADirectoryError, StopIteration) as error:
            absent += not target.parent.is_dir() or (not target.exists() and not _previous(target))
            if absent > 2:  # not only in the instant between a writer's two renames
                raise InputError(f"no adapter {name} in store {store}; it holds: {_some(store)}") from None
            last_error = f"{Path(str(getattr(error, 'filename', target))).name} is missing"
        except NotPlainError as error:
            raise damaged(name, str(error)) from None
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror})") from None
        else:
            changed = [file_name for file_name in wanted if described.get(file_name) != sha256(files[file_name])]
            if not changed:
                return files
            last_error = f"{changed[0]} is not the file that its card describes"
        time.sleep(PAUSE)
    raise InputError(f"{name}: {last_error}; the entry is damaged: restore or retrain it")


def _some(store: Path) -> str:
    """A few of its entries, and that there are more, without looking at all of them."""
    found = some_names(store, MOST_NAMES + 1)
    names = sorted(map(str, found[:MOST_NAMES]))
    return ", ".join([*names, *(["and more"] if len(found) > MOST_NAMES else [])]) or "nothing"


def read_pack(store: Path, name: AdapterName, *, tensors: bool = True) -> RoomPack:
    """Load and check one pack; see :func:`~haa_peft.store.pack_files.from_files`."""
    return from_files(name, read_files(store, name), tensors=tensors)
