"""Settings said once: a dataclass field holds its default, what it means and what is allowed.

Flags (:mod:`haa_peft.commands.parser`), study files and checks follow from the fields. jsonargparse and pydantic would
do as much, but importing one takes 0.11 or 0.13 s, as long as all else that ``haa-peft --help`` does, and their errors
take several lines.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from haa_peft.errors import InputError

RENAMED = {"least_gain": "min_delta", "averaging": "ema_decay", "checkpointing": "gradient_checkpointing"}
"""Names until version 0.1, which cards, results, checkpoints and study files may still have."""
KINDS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "text"),
    "dict": (dict, "a mapping of names to options"),
}
"""Types of the annotations that are checked, and what they are called."""
LIMITS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def setting(default: Any, about: str, *, choices: Sequence[str] = (), **limits: float) -> Any:
    """A dataclass field with a sentence about it and what it may be.

    Parameters
    ----------
    default : a value, or a function that makes it.
    about : a sentence, which is the help of its flag.
    choices : the words that are allowed.
    **limits : those of ``LIMITS``.
    """
    metadata = {"about": about, "choices": choices, "limits": limits}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def fields(settings: Any) -> dict[str, dataclasses.Field]:
    """Fields of a dataclass that :func:`setting` made, by name."""
    return {field.name: field for field in dataclasses.fields(settings) if "about" in field.metadata}


def kind(field: dataclasses.Field) -> str:
    """The annotation of a field, without ``| None``."""
    return str(field.type).removesuffix(" | None")


def check(settings: Any, called: str = "--{}") -> None:
    """Raise ``InputError`` for the first field of a dataclass whose value it may not have.

    ``called`` is what a field is called there; of a flag, ``_`` is ``-``.
    """
    for name, field in fields(settings).items():
        value = getattr(settings, name)
        may_be_none = value is None and str(field.type) != kind(field)
        wrong = "" if may_be_none else _wrong(kind(field), field.metadata, value)
        if wrong:
            name = name.replace("_", "-") if called.startswith("-") else name
            raise InputError(f"{called.format(name)} is {value!r} but must be {wrong}")


def read(settings: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those values of a YAML file that are fields of a dataclass: as it keeps them, lists as tuples.

    Raises
    ------
    InputError
        When a field may not have its value.
    """
    return {name: _read(field, given[name]) for name, field in fields(settings).items() if name in given}


def _read(field: dataclasses.Field, value: Any) -> Any:
    name, what = field.name, kind(field)
    if what.startswith("tuple"):
        if not isinstance(value, list):
            raise InputError(f"{name} is {value!r:.40} but must be a list, such as [{value!s:.40}]")
        return tuple(_checked(f"{name} holds", _item(what), field, one) for one in value)
    return None if value is None and value == field.default else _checked(f"{name} is", what, field, value)


def _item(what: str) -> str:
    """``tuple[int, ...]`` -> ``int``."""
    return what.removeprefix("tuple[").removesuffix(", ...]")


def _checked(name: str, what: str, field: dataclasses.Field, value: Any) -> Any:
    if what in ("int", "float") and isinstance(value, str):
        try:
            value = float(value)  # YAML takes 1e-3, without a point, for text
        except ValueError:
            raise InputError(f"{name} {value!r} but must be {KINDS[what][1]}") from None
        value = int(value) if value.is_integer() else value
    wrong = _wrong(what, field.metadata, value)
    if wrong:
        raise InputError(f"{name} {value!r:.40} but must be {wrong}")
    return value


def _wrong(what: str, metadata: Mapping[str, Any], value: Any) -> str:
    """What a value must be and is not, in words; empty if it is all right."""
    if what.startswith("tuple"):
        return next((wrong for one in value if (wrong := _wrong(_item(what), metadata, one))), "")
    types, called = KINDS.get(what, (object, ""))
    if not isinstance(value, types) or (called and what != "bool" and isinstance(value, bool)):
        return called
    if metadata["choices"] and value not in metadata["choices"]:
        return f"one of {', '.join(metadata['choices'])}"
    limits = metadata["limits"]
    if all(LIMITS[word](value, limit) for word, limit in limits.items()):
        return ""
    return " and ".join(f"{word.replace('_', ' ')} {limit}" for word, limit in limits.items())


def new_names(value: Any) -> Any:
    """JSON with the keys of ``RENAMED`` by their new names, at any depth."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): new_names(item) for key, item in value.items()}
    return [new_names(item) for item in value] if isinstance(value, list) else value
