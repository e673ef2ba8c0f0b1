"""Where the moving end is and how a head is turned, at each moment."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.checks import real_numbers
from haa_peft.errors import InputError

COLUMNS = ("time", "x", "y", "z")
ANGLES = ("yaw", "pitch")
LARGEST = 100_000
"""Rows of a path."""
HOP_S = 0.05
"""Seconds between the moments at which responses are taken."""


def read_path(file: Path) -> np.ndarray:
    """Rows (N, 4 to 6) of a CSV file with a first row ``time,x,y,z``, and ``yaw`` and ``pitch`` behind if given.

    Seconds since the sound begins, metres in room coordinates, degrees.

    Raises
    ------
    InputError
        When it cannot be read, or columns are missing.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = [[cell.strip() for cell in row] for row in csv.reader(opened) if row and row[0][:1] != "#"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table ({error})") from None
    heads = rows[0] if rows else []
    columns = [*COLUMNS, *ANGLES[: sum(name in heads for name in ANGLES)]]
    if any(name not in heads for name in columns) or len(set(heads)) < len(heads):
        raise InputError(f"{file}: begins with {','.join(heads)!r:.60} but must begin with time,x,y,z[,yaw[,pitch]]")
    if len(rows) - 1 > LARGEST:
        raise InputError(f"{file}: has {len(rows) - 1} rows but at most {LARGEST} are read")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(heads):
            raise InputError(f"{file}: row {number} has {len(row)} cells but the first has {len(heads)}")
    try:
        found = np.array([[float(row[heads.index(name)]) for name in columns] for row in rows[1:]])
    except ValueError as error:
        raise InputError(f"{file}: {error}; all cells below the first row must be numbers") from None
    return check_path(found, str(file))


def check_path(rows: ArrayLike, what: str = "path") -> np.ndarray:
    """Rows (N, 4 to 6) as float64; one position (3,) is a path of one row.

    Raises
    ------
    InputError
        For other shapes, for what is not finite, and for times that do not grow.
    """
    found = real_numbers(what, rows)
    if found.shape == (3,):
        found = np.array([[0.0, *found]])
    if found.ndim != 2 or not 4 <= found.shape[1] <= 6 or not len(found):
        raise InputError(
            f"{what} is {found.shape} but must be a position (3,) in m, or rows (N, 4) of seconds and m, with yaw and "
            "pitch in degrees behind if the head turns"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{what} holds NaN or infinity but must be finite numbers")
    late = np.flatnonzero(np.diff(found[:, 0]) <= 0)
    if len(late):
        raise InputError(f"{what}: time {found[late[0] + 1, 0]:g} s does not follow {found[late[0], 0]:g} s; sort them")
    return found


def check_facing(facing: ArrayLike | None, rows: np.ndarray) -> np.ndarray | None:
    """Yaw and pitch (2,) in degrees of a head that stays turned so; None where a path (N, 4 to 6) says it, or nobody.

    Raises
    ------
    InputError
        For anything but one or two finite numbers, and where both say it.
    """
    if facing is None:
        return None
    found = np.atleast_1d(real_numbers("facing", facing))
    if found.ndim != 1 or len(found) > 2 or not len(found) or not np.isfinite(found).all():
        raise InputError(f"facing is {np.asarray(facing).tolist()!r:.60} but must be yaw, or yaw and pitch, in degrees")
    if rows.shape[1] > 4:
        raise InputError("facing is given, and the path has a column yaw; leave one of them out")
    return np.array([found[0], found[1] if len(found) == 2 else 0.0])


def poses_at(rows: np.ndarray, facing: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Poses (M, 5) at times (M,) s: x, y, z in m, yaw and pitch in degrees.

    Parameters
    ----------
    rows : (N, 4 to 6), as :func:`check_path` gives them; on straight lines between, and at rest before and behind.
    facing : (2,) yaw and pitch in degrees, for what the rows do not say.
    times : (M,) s.
    """
    full = np.concatenate([rows[:, 1:], np.tile(facing[rows.shape[1] - 4 :], (len(rows), 1))], axis=1)
    full[:, 3] = np.unwrap(full[:, 3], period=360)
    return np.stack([np.interp(times, rows[:, 0], column) for column in full.T], axis=1)
