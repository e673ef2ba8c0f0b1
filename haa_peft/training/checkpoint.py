"""State of an unfinished run, so that it can go on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from haa_peft.errors import InputError
from haa_peft.files import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and strings, beside the target and renamed."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path, **expected: object) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; ``expected`` entries must be as given (the run's own settings)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no checkpoint to resume from; start without --resume") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise InputError(f"{path}: the checkpoint is damaged; remove it and start without --resume") from None
    for key, value in expected.items():
        if state.get(key) != value:
            raise InputError(
                f"{path}: the checkpoint is of a run with {key} {state.get(key)!r} but this one has {value!r}; "
                "resume with the same settings or start without --resume"
            )
    return state
