"""Room folders that are simulated on first use and kept: a cache that holds only whole ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError

FILES = ("RIRs.npy", "xyzs.npy", "room.json")


def cache_folder() -> Path:
    """``$HAA_PEFT_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("HAA_PEFT_CACHE") or pooch.os_cache("haa_peft")).expanduser()


def kept(
    target: Path, name: str, shape: tuple[int, int], make: Callable[[], tuple[np.ndarray, np.ndarray, dict[str, Any]]]
) -> Path:
    """The room folder ``target``, made unless it is there and whole.

    Parameters
    ----------
    target : folder of the simulated room.
    name : what is simulated, for people.
    shape : of its RIRs, (N, T).
    make : gives RIRs (N, T), positions (N, 3) m and the content of ``room.json``.

    Raises
    ------
    InputError
        When the folder cannot be written.
    """
    if _is_whole(target, shape):
        return target
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        print(f"simulating {name} ({shape[0]} positions, some seconds, once): {target}", file=sys.stderr)
        rirs, positions, description = make()
        np.save(temporary / FILES[0], rirs)
        np.save(temporary / FILES[1], positions)
        (temporary / FILES[2]).write_text(json.dumps(description, indent=1), encoding="utf-8")
        _move(temporary, target, shape)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); set HAA_PEFT_CACHE to a folder that can be"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_whole(target: Path, shape: tuple[int, int]) -> bool:
    try:
        json.loads((target / FILES[2]).read_text(encoding="utf-8"))
        shapes = [np.load(target / file, mmap_mode="r").shape for file in FILES[:2]]
    except (OSError, ValueError, EOFError):
        return False
    return shapes == [shape, (shape[0], 3)]


def _move(temporary: Path, target: Path, shape: tuple[int, int]) -> None:
    """Rename, unless another process was first; a damaged room is mended file by file, its content being the same."""
    try:
        temporary.rename(target)
    except OSError:
        if not _is_whole(target, shape):
            for file in FILES:
                (temporary / file).replace(target / file)
