"""What commands write: places that a file may take, files that are there whole or not at all, reports as JSON."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from haa_peft.errors import InputError
from haa_peft.files import write_json


def check_writable(path: Path) -> None:
    """Raise ``InputError`` now if a file could not be written at ``path`` later."""
    if path.is_dir():
        raise InputError(f"{path} is a folder but a file is to be written there; give a file name")
    existing = next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(
            f"{path}: cannot be written, since {existing} is no folder or not writable; choose another place"
        )


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` for a file or a folder, which takes that name when the block ends well.

    Otherwise nothing of it is left, nor the folders that were made for it, and ``path`` stays as it was.

    Raises
    ------
    InputError
        When it cannot be written, or ``path`` is a folder that holds something.
    """
    new = [parent for parent in path.absolute().parents if not parent.exists()]
    written = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            yield Path(scratch) / path.name
            (Path(scratch) / path.name).replace(path)
            written = True
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        for parent in () if written else new:
            with suppress(OSError):
                parent.rmdir()


def check_report(path: Path | None, kind: str) -> None:
    """Raise ``InputError`` now if a report of a kind, such as ``evaluate``, could not be written at ``path`` later.

    A report takes the place of one of its own kind, never of another file.
    """
    if path is None:
        return
    check_writable(path)
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    there = found.get("kind") if isinstance(found, dict) else None
    if there != kind:
        what = f"a report of {there}" if isinstance(there, str) else "no report that says of what"
        raise InputError(f"{path} is {what}, and a report of {kind} may not replace it; give another name or remove it")


def write_report(path: Path, kind: str, report: Mapping[str, Any]) -> str:
    """Write a report of a kind as JSON, after :func:`check_report`; what was done, as a line to print."""
    replaced = path.exists()
    write_json(path, {"kind": kind, **report})
    return f"{'replaced the' if replaced else 'wrote a'} report of {kind}: {path}"
