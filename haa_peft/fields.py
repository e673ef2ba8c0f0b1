"""Settings said once, by a dataclass; pydantic checks them.

The field ``rank: Annotated[int, Field(ge=1, description="rank of the updates")] = 4`` is the flag ``--rank``
(:mod:`haa_peft.commands.parser`), a key of study files and a line of docs/settings.md. Values stay as they were given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from haa_peft.errors import InputError

RENAMED = {"least_gain": "min_delta", "averaging": "ema_decay", "checkpointing": "gradient_checkpointing"}
"""Names until version 0.1, which cards, results, checkpoints and study files may still have."""
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Mapping[str, int]: "names with whole numbers",
    Mapping[str, float]: "names with numbers",
    str | Mapping[str, str]: "a name, or a mapping of rooms to names",
    bool | tuple[str, ...]: "true, false or a list",
    tuple[str, str]: "a pair of runs, such as [lora, backbone]",
}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@cache
def _model(settings: type) -> type[BaseModel]:
    """The annotated fields of a dataclass, as pydantic checks them."""
    hints = get_type_hints(settings, include_extras=True)
    every: Any = {f.name: (hints[f.name], f.default) for f in dataclasses.fields(settings)}
    annotated = {name: said for name, said in every.items() if get_origin(said[0]) is Annotated}
    how = ConfigDict(strict=True, arbitrary_types_allowed=True, defer_build=True)
    return create_model(settings.__name__, __config__=how, **annotated)


def fields(settings: type) -> dict[str, FieldInfo]:
    """The annotated fields of a dataclass, by name."""
    return _model(settings).model_fields


def kind(field: FieldInfo) -> Any:
    """The type of a field, without ``| None``."""
    arguments = get_args(field.annotation)
    return arguments[0] if NoneType in arguments else field.annotation


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that are allowed; empty if it is no choice."""
    return get_args(kind(field)) if get_origin(kind(field)) is Literal else ()


def item(field: FieldInfo) -> FieldInfo:
    """Of a list, what it holds; any other field itself."""
    return FieldInfo.from_annotation(get_args(kind(field))[0]) if get_origin(kind(field)) is tuple else field


def limits(field: FieldInfo) -> str:
    """Such as ``at least 1 and below 9``."""
    each = [pair for limit in field.metadata for pair in dataclasses.asdict(limit).items()]
    return " and ".join(f"{LIMITS[name]} {value}" for name, value in each)


def check(settings: Any, prefix: str = "--") -> None:
    """Raise ``InputError`` for the first field of a dataclass whose value it may not have, as a flag unless told."""
    check_values(type(settings), vars(settings), prefix)


def check_values(settings: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ``InputError`` for the first of some values, by field, that a dataclass may not have; as it is called."""
    try:
        _model(settings).model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, wrong = str(first["loc"][0]), first["input"]
        field, whole = item(fields(settings)[name]), wrong is values[name]
        must_be = f"one of {', '.join(choices(field))}" if choices(field) else WORDS[kind(field)]
        if LIMITS.keys() & first.get("ctx", {}).keys():
            must_be = limits(field)
        elif first["type"] == "tuple_type" and whole:
            must_be = f"a list, such as [{wrong!s:.40}]"
        shown = list(wrong) if isinstance(wrong, tuple) else wrong  # as in the file
        called = f"--{name.replace('_', '-')}" if prefix == "--" else prefix + name
        raise InputError(f"{called} {'is' if whole else 'holds'} {shown!r:.40} but must be {must_be}") from None


def new_names(value: Any) -> Any:
    """JSON with the keys of ``RENAMED`` by their new names, at any depth."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): new_names(item) for key, item in value.items()}
    return [new_names(item) for item in value] if isinstance(value, list) else value
