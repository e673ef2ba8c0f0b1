"""Positions in a CSV, JSON or NumPy file: whose, where, in which unit."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.entry import UNITS
from haa_peft.importing.audio import ENDINGS
from haa_peft.importing.measured import ANGLES, from_angles, unit

NAMES = ("file", "filename", "file_name", "name", "path", "wav", "rir", "id", "audio")
PREFIXES = {
    "position": ("", "pos", "position", "xyz", "point", "p"),
    "source": ("source", "src", "loudspeaker", "speaker", "ls", "emitter", "s"),
    "receiver": ("receiver", "rec", "rcv", "mic", "microphone", "listener", "r", "m"),
}
"""What a column's name may begin with, of the ends of a way; ``position`` is the one that moves."""
ANGULAR = {"azimuth": ("azimuth", "az", "azi"), "elevation": ("elevation", "el", "elev"),
           "distance": ("distance", "dist", "radius")}  # fmt: skip
RATES = ("sample_rate", "rate", "fs", "sr", "samplerate")


@dataclass(frozen=True)
class Positions:
    """A table of positions.

    Attributes
    ----------
    names : of the files that rows belong to; None where rows have no name.
    sources, receivers : (N, 3) m; None for an end that the table does not hold.
    around : whether positions count from the receiver, since they came as angles.
    said : what was taken for what.
    """

    names: tuple[str, ...] | None
    sources: np.ndarray | None
    receivers: np.ndarray | None
    around: bool
    said: tuple[str, ...]


def read_positions(path: Path, units: str | None, *, clockwise: bool = False) -> Positions:
    """Positions of a ``.csv``, ``.tsv``, ``.txt``, ``.json`` or ``.npy`` file.

    Parameters
    ----------
    path : the file.
    units : of lengths whose column does not say.
    clockwise : azimuths count clockwise.

    Raises
    ------
    InputError
        When the file is damaged or its columns cannot be told.
    """
    if path.suffix.lower() == ".npy":
        try:
            rows = np.load(path, allow_pickle=False)
        except Exception as error:  # whatever a damaged file makes of numpy's reader
            raise InputError(f"{path}: cannot be read as a .npy array ({error or 'it is empty'})") from None
        return of_array(rows, path, units)
    columns = _json(path) if path.suffix.lower() == ".json" else _csv(path)
    return _of_columns(columns, path, units, clockwise)


def of_array(rows: np.ndarray, path: object, units: str | None) -> Positions:
    """Positions of an array (N, 3); raises ``InputError`` for any other."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or 3 not in rows.shape or not np.issubdtype(rows.dtype, np.number) or np.iscomplexobj(rows):
        raise InputError(f"{path}: positions have shape {rows.shape} but must be (N, 3) numbers, x y z")
    said = []
    if rows.shape[1] != 3:
        rows = rows.T
        said.append(f"positions: turned from (3, {len(rows)}) to ({len(rows)}, 3)")
    factor, line = _length(units)
    return Positions(None, _finite(rows.astype(float), path) * factor, None, False, (*said, f"positions: x y z{line}"))


def _length(units: str | None) -> tuple[float, str]:
    return (1.0, " in m, since no unit is stated") if units is None else (UNITS[units], f" in {units}")


def _finite(points: np.ndarray, path: object) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: position {bad[0]} holds NaN or infinity; mend it or take it out")
    return points


def _csv(path: Path) -> dict[str, list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path}: is empty; it must hold a row for each RIR")
    delimiter = next((mark for mark in (";", "\t", ",") if mark in lines[0]), None)
    split = (line.split() for line in lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
    rows = [[cell.strip() for cell in row] for row in split]
    if delimiter == ";":  # and then a comma may be the decimal point
        rows = [[re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) for cell in row] for row in rows]
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise InputError(f"{path}: row {number} has {len(row)} cells but the first has {width}")
    if not _is_number(rows[0][-1]):
        return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    if width == 3:
        return {name: [row[i] for row in rows] for i, name in enumerate("xyz")}
    if width == 4 and not _is_number(rows[0][0]):
        return {name: [row[i] for row in rows] for i, name in enumerate(("file", "x", "y", "z"))}
    raise InputError(f"{path}: has no heads of columns; write a first row such as file,x,y,z")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json(path: Path) -> dict[str, list[Any]]:
    """Columns of a list of objects or points, an object of columns, or an object of names."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    while isinstance(value, Mapping) and len(value) >= 1 and isinstance(value.get("positions"), list | Mapping):
        value = value["positions"]
    if isinstance(value, Mapping):
        if value and all(isinstance(one, list) and len(one) != 3 for one in value.values()):
            return {str(name): list(column) for name, column in value.items()}
        value = [{"file": name, **(one if isinstance(one, Mapping) else {"position": one})}
                 for name, one in value.items()]  # fmt: skip
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: must hold a list of positions, or an object of them by file name")
    rows = [dict(row) if isinstance(row, Mapping) else {"position": row} for row in value]
    columns: dict[str, list[Any]] = {}
    for key in rows[0]:
        if any(key not in row for row in rows):
            raise InputError(f"{path}: not every row has {key!r}")
        column = [row[key] for row in rows]
        if isinstance(column[0], list):
            if any(not isinstance(one, list) or len(one) != 3 for one in column):
                raise InputError(f"{path}: {key!r} must be three numbers [x, y, z] in every row")
            end = key.lower().removesuffix("_xyz")
            for axis, letter in enumerate("xyz"):
                columns[f"{end}_{letter}" if end not in ("xyz", "position") else letter] = [one[axis] for one in column]
        else:
            columns[str(key)] = column
    return columns


def _of_files(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """The column whose cells are all names of sound files, whatever its head."""
    return next((name for name, column in columns.items()
                 if all(str(one).lower().endswith(ENDINGS) for one in column)), None)  # fmt: skip


def _of_columns(columns: Mapping[str, Sequence[Any]], path: Path, units: str | None, clockwise: bool) -> Positions:
    heads = {name: _head(name) for name in columns}
    said: list[str] = []
    named = next((name for name, (head, _) in heads.items() if head in NAMES), None) or _of_files(columns)
    ends = {end: _cartesian(end, heads) for end in PREFIXES}
    angles = {part: next((name for name, (head, _) in heads.items() if head in words), None)
              for part, words in ANGULAR.items()}  # fmt: skip
    points: dict[str, np.ndarray] = {}
    for end, three in ends.items():
        if three is None:
            continue
        stated = {heads[name][1] for name in three} - {None}
        text = ", ".join(three)
        if len(stated) > 1:
            raise InputError(f"{path}: columns {text} have several units, {' and '.join(sorted(map(str, stated)))}")
        factor, line = (unit(str(*stated), path), f" in {next(iter(stated))}") if stated else _length(units)
        points[end] = np.stack([_numbers(columns[name], name, path) for name in three], axis=1) * factor
        said.append(f"columns {text}: {'positions' if end == 'position' else f'{end}s'}{line}")
    around = False
    if "position" not in points and angles["azimuth"] and angles["distance"]:
        points["position"], line = _angular(columns, angles, heads, path, units, clockwise)
        around = True
        said.append(line)
    if "position" in points and "source" in points:
        raise InputError(f"{path}: has columns of positions and of sources; leave one of them out")
    if clockwise and not around:
        raise InputError(f"{path}: --clockwise goes with azimuths, and it has none")
    sources = points.get("source", points.get("position"))
    if sources is None and "receiver" not in points:
        raise InputError(
            f"{path}: columns {', '.join(columns)} hold no positions that can be told; name them x, y, z (or "
            "source_x .. and receiver_x .., or azimuth_deg, elevation_deg, distance)"
        )
    names = None if named is None else tuple(str(one) for one in columns[named])
    used = {named, *angles.values(), *(name for three in ends.values() for name in three or ())}
    if unused := [name for name in columns if name not in used]:
        said.append(f"columns {', '.join(unused)}: not used")
    for found in points.values():
        _finite(found, path)
    return Positions(names, sources, points.get("receiver"), around, tuple(said))


def _head(name: str) -> tuple[str, str | None]:
    """A column's name in small letters without its unit, and the unit."""
    text = name.strip().lower()
    found = re.fullmatch(r"(.*?)\s*[\[(]\s*([a-z]+)\s*[\])]", text) or re.fullmatch(
        rf"(.+)[ _]({'|'.join([*UNITS, *ANGLES])})", text
    )
    base, stated = (found[1], found[2]) if found else (text, None)
    return re.sub(r"[\s.\-]+", "_", base.strip()), stated


def _cartesian(end: str, heads: Mapping[str, tuple[str, str | None]]) -> list[str] | None:
    """Names of the columns that are x, y and z of an end."""
    by_head = {head: name for name, (head, _) in heads.items()}
    for prefix in PREFIXES[end]:
        for pattern in ("{0}_{1}", "{1}_{0}", "{0}{1}", "{1}{0}"):
            wanted = [pattern.format(prefix, axis) if prefix else axis for axis in "xyz"]
            if all(one in by_head for one in wanted):
                return [by_head[one] for one in wanted]
    return None


def _numbers(column: Sequence[Any], name: str, path: Path) -> np.ndarray:
    try:
        return np.array([float(cell) for cell in column])
    except (TypeError, ValueError):
        bad = next(
            cell for cell in column if isinstance(cell, list | dict | None.__class__) or not _is_number(str(cell))
        )
        raise InputError(f"{path}: column {name!r} holds {bad!r:.40}, which is no number") from None


def _angular(
    columns: Mapping[str, Sequence[Any]],
    angles: Mapping[str, str | None],
    heads: Mapping[str, tuple[str, str | None]],
    path: Path,
    units: str | None,
    clockwise: bool,
) -> tuple[np.ndarray, str]:
    """Positions (N, 3) m around the receiver from columns of angles and distances."""
    values = {part: _numbers(columns[name], name, path) for part, name in angles.items() if name is not None}
    distance = str(angles["distance"])
    stated = heads[distance][1]
    factor, line = (unit(stated, path), f" in {stated}") if stated else _length(units)
    azimuth = str(angles["azimuth"])
    kind = heads[azimuth][1]
    if kind is None:
        if np.abs(values["azimuth"]).max() <= 2 * np.pi + 0.01:
            raise InputError(
                f"{path}: column {azimuth!r} may be degrees or radians; call it azimuth_deg or azimuth_rad"
            )
        kind = "degrees"
    turn = ANGLES[kind]
    elevation = values.get("elevation", np.zeros(len(values["azimuth"]))) * turn
    way = "clockwise" if clockwise else "counterclockwise"
    used = ", ".join(name for name in angles.values() if name is not None)
    text = f"columns {used}: positions around the receiver, {kind}, distances{line}, {way} from x"
    return from_angles(
        values["azimuth"] * turn * (-1 if clockwise else 1), elevation, values["distance"] * factor
    ), text
