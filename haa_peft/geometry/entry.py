"""Reading what a ``geometry`` entry says: its value of ``key``, or ``InputError`` that begins with ``where``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haa_peft.errors import InputError

UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "in": 0.0254, "ft": 0.3048}
"""In metres."""
FARTHEST = 1e4
"""Metres; larger coordinates are not of a room."""


def check_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise ``InputError`` for a key that an entry does not have."""
    unknown = sorted(set(entry) - set(known))
    if unknown:
        others = f"goes with {', '.join(known[1:])}" if len(known) > 1 else "stands alone"
        raise InputError(f"{where}: geometry has {unknown[0]!r}, but {known[0]} {others}")


def point(value: object, where: object, field: str) -> np.ndarray:
    """Three finite numbers (3,); raises ``InputError``, which names ``where`` and ``field``, for anything else."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (3,) or not (np.abs(found) < FARTHEST).all():
        raise InputError(
            f"{where}: {field} is {value!r:.60} but must be three finite numbers [x, y, z] in metres; check the unit"
        )
    return found
