"""Writing files so that an interrupted or failed write loses nothing."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from haa_peft.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class NotPlainError(OSError):
    """A file is none, such as a pipe or a folder, or larger than allowed."""


def read_plain(path: Path, most: int) -> bytes:
    """Content of a plain file of at most so many bytes; a pipe or a device is not waited for.

    Raises
    ------
    NotPlainError
        For anything else, as ``OSError`` where it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotPlainError(f"{path.name} is no plain file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise NotPlainError(f"{path.name} is no plain file")
        content = file.read(most + 1) if about.st_size <= most else b""
        if about.st_size > most or len(content) > most:
            raise NotPlainError(f"{path.name} has {about.st_size} bytes but at most {most} are read")
    return content


def lock(path: Path, handle: ExitStack) -> bool | None:
    """Lock a folder or file until ``handle`` is closed or the process ends, however it ends.

    Returns
    -------
    False where another one holds it, None where there are no such locks or no such path.
    """
    if fcntl is None:
        return None
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    handle.callback(os.close, opened)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


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


def hold(folder: Path, handle: ExitStack) -> None:
    """Keep a folder for this process until ``handle`` is closed or the process ends; it is made if it is not there.

    Raises
    ------
    InputError
        When another process holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    if lock(folder, handle) is False:
        raise InputError(f"{folder}: another run writes there; wait for its end, or give another --run-dir")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, NaN as null, so that every reader takes it."""
    text = json.dumps(nan_to_null(value), indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def nan_to_null(value: Any) -> Any:
    """Replace NaN and infinity by None, at any depth of dicts and lists."""
    if isinstance(value, dict):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
