"""Writing files so that an interrupted or failed write loses nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haa_peft.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside ``path``, then rename it; on failure ``path`` stays as it was.

    Raises
    ------
    InputError
        When it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    os.close(handle)
    temporary = Path(name)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); what was there before is unchanged") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ``InputError`` now if a file could not be written at ``path`` later."""
    if path.is_dir():
        raise InputError(f"{path} is a folder but a file is to be written there; give a file name")
    existing = next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(
            f"{path}: cannot be written, since {existing} is no folder or not writable; choose another place"
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, NaN as null, so that every reader takes it."""
    text = json.dumps(nan_to_null(value), indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


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


def nan_to_null(value: Any) -> Any:
    """Replace NaN and infinity by None, at any depth of dicts and lists."""
    if isinstance(value, dict):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
