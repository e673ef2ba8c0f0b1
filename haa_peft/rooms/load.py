"""Reading rooms from folders, with the checks that a measurement needs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.checks import check_kind
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import OPEN_SHARE, DepthMap, Geometry, directions, open_share, render_depth
from haa_peft.geometry.sources import Known, follows_measurements, geometry_argument, read_geometry
from haa_peft.rooms import haa
from haa_peft.rooms.arrays import read_arrays, read_recorded
from haa_peft.rooms.receivers import read_receivers, splits_of_pairs
from haa_peft.rooms.room import NAME_PART, NEAREST, SIMULATED, Room, together
from haa_peft.rooms.splits import NAMES
from haa_peft.satellites import satellite

SIMULATED_NAME = rf"([a-z]+-twin|{SIMULATED})/[A-Za-z0-9-]+"
"""Pattern of the names of rooms that are simulated rather than read."""
GEOMETRIES = ("room_size", "surfaces", "geometry")
"""What may say in ``room.json`` how the room is shaped; one of them does."""


def load_room(path: str | Path, geometry: object = None, receiver: int | None = None) -> Room:
    """Read one configuration of a room.

    Parameters
    ----------
    path : an HAA folder (``.../hallwayPanel1``, known by its name), a plain room folder (``RIRs.npy``,
        ``xyzs.npy``, ``room.json``), or the name of a simulated twin (``classroom-twin/base``) or of a room of a
        simulated corpus (``simulated/1000-0``), made on first use and cached.
    geometry : another geometry than the room's own, as :func:`~haa_peft.geometry.sources.geometry_argument` takes it:
        ``none``, ``sound``, ``sound-network``, a mesh, a depth panorama, a ``geometry`` entry, or a JSON file that
        holds one.
    receiver : of several, counted from 0, the one to read; all of them unless given (:attr:`Room.others`).

    Raises
    ------
    InputError
        When anything is missing or wrong; the message says what to do.
    """
    check_kind("path", path, str | Path, "a room folder's path, or a simulated room's name")
    folder = Path(path)
    try:
        if re.fullmatch(SIMULATED_NAME, str(path)) and not folder.exists():
            folder = satellite("simulation", f"the simulated room {path}").make_room(str(path)) or folder
        is_folder = folder.is_dir() and str(path) != ""
    except InputError:
        raise
    except (OSError, ValueError):  # a name that no file can have
        is_folder = False
    if not is_folder:
        raise InputError(
            f"{path}: no such room folder, nor the name of a simulated twin such as classroom-twin/base or of a "
            "simulated room such as simulated/1000-0"
        )
    if (folder / "room.json").exists():
        return _at(_read_plain(folder, geometry), receiver)
    for name in (folder.name, folder.resolve().name):
        if name in haa.haa_facts():
            return _at(_read_haa(folder, name, geometry), receiver)
    raise InputError(
        f"{path}: holds no room.json and its name is none of HAA's configurations "
        f"({', '.join(haa.haa_facts())}); write a room.json (see README, Your own room)"
    )


def _at(room: Room, receiver: int | None) -> Room:
    """The room at one of its receivers, scaled by that one's measurements; the whole room for None."""
    if receiver is None:
        return room
    if isinstance(receiver, bool) or not isinstance(receiver, int) or not 0 <= receiver < len(room.at_receivers):
        most = len(room.others)
        raise InputError(
            f"receiver is {receiver!r:.40} but {room.name} has {most + 1}; give 0{f' to {most}' * (most > 0)}"
        )
    one = room.at_receivers[receiver]
    return one.with_splits(one.splits) if room.others else one


def _read_haa(folder: Path, name: str, geometry: object) -> Room:
    facts = haa.haa_facts()[name]
    room, configuration = haa.room_and_configuration(name)
    rirs, positions = read_arrays(folder, haa.SAMPLE_RATE)
    if len(rirs) != facts["n"]:
        raise InputError(f"{folder}: holds {len(rirs)} RIRs but HAA's {name} has {facts['n']}")
    receiver = np.array(facts["speaker_xyz"])
    splits = haa.haa_splits(name)
    measured, origin = (room, configuration, rirs, positions, receiver), (haa.SOURCE, haa.LICENCE)
    entry = {"surfaces": facts["surfaces"]}
    found = _with_geometry(measured, splits, origin, geometry, entry, folder, name)
    return dataclasses.replace(found, recorded=partial(read_recorded, folder, haa.SAMPLE_RATE))


def _with_geometry(
    facts: tuple[str, str, np.ndarray, np.ndarray, np.ndarray],
    splits: dict[str, np.ndarray],
    origin: tuple[str, str],
    override: object,
    entry: object,
    folder: Path,
    where: str,
) -> Room:
    """A room, checked, with the geometry that an entry describes, or the one that overrides it."""
    *_, rirs, positions, receiver = facts
    _check_apart(folder, positions, receiver)
    place = folder
    if override is not None:
        entry, place, where = geometry_argument(override)
    known = Known.of(receiver, positions, rirs, splits["train"])
    shape = read_geometry(entry, place, known, where)
    room = Room(*facts, shape, splits, 1.0, *origin)
    room = dataclasses.replace(room, fit=geometry_reader(entry, place, where) if follows_measurements(entry) else None)
    check_shape(folder, room)
    scale = float(np.abs(rirs[splits["train"]]).max())
    return dataclasses.replace(room, rirs=(rirs / scale).astype(np.float32), scale=scale)


def geometry_reader(entry: object, folder: Path, where: str) -> Callable[[Room], Geometry]:
    """What gives the geometry that an entry describes, for a room as its training measurements are."""

    def read(room: Room) -> Geometry:
        known = Known.of(room.receiver, room.positions, room.rirs, room.splits["train"])
        return read_geometry(entry, folder, known, where)

    return read


def _read_plain(folder: Path, geometry: object) -> Room:
    where = folder / "room.json"
    try:
        description = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read as JSON ({error})") from None
    if not isinstance(description, dict):
        raise InputError(f"{where}: holds a {type(description).__name__} but must hold an object")
    rate = description.get("sample_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 8000 <= rate <= 384_000 or rate != int(rate):
        raise InputError(f"{where}: sample_rate is {rate!r} but must be a whole number of Hz from 8000 to 384000")
    if int(rate) // math.gcd(int(rate), SAMPLE_RATE) > 2000:
        raise InputError(
            f"{where}: sample_rate {rate} has no simple ratio to {SAMPLE_RATE} Hz; resample to 48000 first"
        )
    given = [field for field in GEOMETRIES if field in description]
    if geometry is None and len(given) != 1:
        raise InputError(
            f'{where}: needs either room_size [x, y, z] in metres, surfaces or geometry ("none" if nothing is known)'
            + (f", not {' and '.join(given)}" if given else "")
        )
    configuration = description.get("configuration", folder.resolve().name)
    room = description.get("room", folder.resolve().parent.name)
    for field, value in (("room", room), ("configuration", configuration)):
        if not isinstance(value, str) or not re.fullmatch(NAME_PART, value):
            raise InputError(
                f"{where}: {field} is {value!r} but must be letters, digits, - or _; "
                "give it in room.json or rename the folder"
            )
    rirs, positions = read_arrays(folder, int(rate))
    receivers, receiver_of = read_receivers(description, len(rirs), where)
    origin = str(description.get("source", "unknown")), str(description.get("licence", "unknown"))
    if "splits" in description:
        splits = _read_splits(description["splits"], len(rirs), where)
    else:
        splits = splits_of_pairs(positions, receiver_of)
    entry = description["geometry"] if given == ["geometry"] else {field: description[field] for field in given}
    singles = []
    for i, receiver in enumerate(receivers):
        rows = receiver_of == i
        own = {name: np.searchsorted(np.flatnonzero(rows), indices[rows[indices]]) for name, indices in splits.items()}
        if len(own["train"]) < min(2, rows.sum()):
            raise InputError(f"{where}: receiver {i} has {len(own['train'])} training positions but needs at least 2")
        facts = (room, configuration, rirs[rows], positions[rows], receiver)
        single = _with_geometry(facts, own, origin, geometry, entry, folder, str(where))
        at = None if len(receivers) == 1 else np.flatnonzero(rows)
        singles.append(dataclasses.replace(single, recorded=partial(read_recorded, folder, int(rate), rows=at)))
    _check_seen_apart(singles, where)
    return together(singles)


def _check_seen_apart(singles: list[Room], where: Path) -> None:
    """Raise ``InputError`` where several receivers are said to see the same, as a file of one depth map says."""
    seen = [single.geometry for single in singles if isinstance(single.geometry, DepthMap)]
    if len(seen) > 1 and seen[0].trust != "assumed" and np.array_equal(seen[0].depth, seen[1].depth):
        raise InputError(
            f"{where}: a depth map shows what one receiver sees, and there are {len(singles)}; give room_size, "
            'surfaces, a mesh or "none"'
        )


def _check_apart(folder: Path, positions: np.ndarray, receiver: np.ndarray) -> None:
    """Raise ``InputError`` unless all positions differ from each other and from the receiver."""
    from scipy.spatial import cKDTree

    at_receiver = np.flatnonzero(np.linalg.norm(positions - receiver, axis=1) < NEAREST)
    if len(at_receiver):
        raise InputError(
            f"{folder}: position {at_receiver[0]} lies at the receiver {receiver.tolist()}; "
            "the two must be at least 1 cm apart"
        )
    pairs = cKDTree(positions).query_pairs(NEAREST)
    if pairs:
        first, second = min(pairs)
        raise InputError(
            f"{folder}: positions {first} and {second} are the same point {positions[first].tolist()}; remove one"
        )


def check_shape(folder: object, room: Room) -> None:
    """Raise ``InputError`` unless the geometry is around receiver and positions; ``folder`` is named first."""
    positions, receiver = room.positions, room.receiver
    low, high = room.geometry.bounds()
    if (receiver < low).any() or (receiver > high).any():
        raise InputError(
            f"{folder}: the receiver {receiver.tolist()} lies outside the room, which spans "
            f"{low.round(3).tolist()} to {high.round(3).tolist()} m; check the coordinates' origin and unit"
        )
    outside = np.flatnonzero((positions < low - NEAREST).any(axis=1) | (positions > high + NEAREST).any(axis=1))
    if len(outside):
        raise InputError(
            f"{folder}: position {outside[0]}, {positions[outside[0]].round(3).tolist()}, lies outside the room, which "
            f"spans {low.round(3).tolist()} to {high.round(3).tolist()} m; check the coordinates' origin and unit"
        )
    unseen = 0.0 if room.surfaces is None else open_share(render_depth(room.surfaces, receiver, directions(32, 64)))
    if unseen > OPEN_SHARE:
        raise InputError(
            f"{folder}: from the receiver {receiver.tolist()} no surface is seen in {unseen:.0%} of the directions; "
            "it must stand inside surfaces that enclose it"
        )


def _read_splits(value: object, count: int, where: Path) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or set(value) != set(NAMES):
        raise InputError(f"{where}: splits must hold {', '.join(NAMES)}, each a list of indices")
    for name in NAMES:
        indices = value[name]
        if not isinstance(indices, list) or not all(type(index) is int and abs(index) < 2**31 for index in indices):
            raise InputError(f"{where}: splits {name} is {indices!r:.40} but must be a list of whole numbers")
    splits = {name: np.array(value[name], dtype=np.int64) for name in NAMES}
    every = np.concatenate(list(splits.values()))
    if len(np.unique(every)) != len(every) or ((every < 0) | (every >= count)).any():
        raise InputError(f"{where}: splits must be disjoint indices from 0 to {count - 1}")
    if not len(splits["train"]):
        raise InputError(f"{where}: splits has no training position; give at least 2")
    return splits
