"""Reading what a ``geometry`` entry says of a file, with errors that name the entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from haa_peft.errors import InputError


def choice(entry: Mapping[str, Any], key: str, allowed: Sequence[str], default: str | None, where: str) -> str | None:
    """A word that must be one of those allowed.

    Parameters
    ----------
    entry, key : where it is looked for.
    allowed : words.
    default : what it is if it is not given.
    where : what an error begins with.

    Raises
    ------
    InputError
        For any other value.
    """
    value = entry.get(key, default)
    if value is not None and value not in allowed:
        raise InputError(f"{where}: geometry {key} is {value!r} but must be one of {', '.join(allowed)}")
    return value


def number(
    entry: Mapping[str, Any], key: str, low: float, high: float, default: float | None, where: str
) -> float | None:
    """A number from ``low`` to ``high``; None where none is given and there is no default.

    Parameters
    ----------
    entry, key : where it is looked for.
    low, high : limits, which are allowed too.
    default : what it is if it is not given.
    where : what an error begins with.

    Raises
    ------
    InputError
        For anything else.
    """
    value = entry.get(key, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{where}: geometry {key} is {value!r} but must be a number from {low:g} to {high:g}")
    return float(value)


def file_of(entry: Mapping[str, Any], key: str, folder: Path, where: str) -> Path:
    """The file that an entry names.

    Parameters
    ----------
    entry, key : where it is named.
    folder : that its name is relative to.
    where : what an error begins with.

    Raises
    ------
    InputError
        When none is there.
    """
    value = entry[key]
    path = folder / value if isinstance(value, str) and value else None
    if path is None or not path.is_file():
        raise InputError(f"{where}: geometry {key} is {value!r:.80} but must be a file; none is there")
    return path
