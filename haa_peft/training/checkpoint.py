"""State of an unfinished run, so that it can go on."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from haa_peft.errors import InputError
from haa_peft.fields import new_names
from haa_peft.files import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings, beside the target and renamed."""
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())


def load_checkpoint(path: Path, settings: dict[str, Any], needed: Iterable[str]) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, with its ``needed`` entries, of a run of the same ``settings``.

    Raises
    ------
    InputError
        When there is none, it is damaged, or its settings are others.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = new_names(dict(state["settings"]))
        state = {key: state[key] for key in needed}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no checkpoint to resume from; start without --resume") from None
    except Exception:  # whatever a damaged file makes of the unpickler
        raise InputError(f"{path}: the checkpoint is damaged; remove it and start without --resume") from None
    differing = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
    if differing:
        key = differing[0]
        raise InputError(
            f"{path}: the checkpoint's {key} is {found.get(key)!r} but this run's is {settings.get(key)!r}; "
            "resume with the same settings or start without --resume"
        )
    return state
