"""From measurements to a room folder: choose, check, mend, write whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.importing.choose import Fixed, fixed_points
from haa_peft.importing.measured import Measurements
from haa_peft.importing.read import read_source
from haa_peft.importing.wanted import Wanted
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import NAME_PART

Content = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""RIRs (N, T), positions (N, 3) m, and what ``room.json`` says."""


def make_rooms(sources: Sequence[Path], out: Path, wanted: Wanted, *, dry_run: bool) -> list[str]:
    """What :func:`haa_peft.importing.import_room` does; its lines.

    Parameters
    ----------
    sources, out, wanted, dry_run : as that takes them.
    """
    out = _target(out)
    measured = read_source(sources, wanted)
    said = list(measured.said)
    folders: dict[Path, Content] = {}
    for fixed in fixed_points(measured, wanted):
        folder = out.with_name(f"{out.name}-{fixed.tag}") if fixed.tag else out
        if fixed.tag:
            said.append(f"{folder}:")
        said += fixed.said
        lines, content = _room(fixed, measured, wanted, folder)
        said += lines
        folders[folder] = content
    said += write_rooms(folders, dry_run=dry_run)
    return said


def _target(out: Path) -> Path:
    """Where to write; its name and its parent's must be names."""
    out = out.absolute()
    for part, what in ((out.name, "configuration"), (out.parent.name, "room")):
        if not re.fullmatch(NAME_PART, part):
            raise InputError(
                f"--out {out}: {what} would be {part!r} but must be letters, digits, - or _; give ROOM/CONFIGURATION"
            )
    return out


def _room(fixed: Fixed, measured: Measurements, wanted: Wanted, folder: Path) -> tuple[list[str], Content]:
    """What is written of one receiver, and what is said of it."""
    positions, receiver = fixed.positions, fixed.receiver
    said, shape, origin = _shape(measured, wanted, receiver)
    positions, receiver = positions - origin, receiver - origin
    description = {
        "sample_rate": measured.rate,
        "receiver_xyz": receiver.tolist(),
        **shape,
        "room": folder.parent.name,
        "configuration": folder.name,
        "licence": measured.licence,
        "source": measured.origin,
        "imported": [*measured.said, *fixed.said, *said],
    }
    return said, (fixed.rirs.astype(np.float32), positions, description)


def _shape(
    measured: Measurements, wanted: Wanted, receiver: np.ndarray
) -> tuple[list[str], dict[str, Any], np.ndarray]:
    """What is said of the geometry, its entry in ``room.json``, and the point (3,) m that becomes the origin."""
    if wanted.room_size is not None:
        return (
            [f"room: a box of {_by(wanted.room_size)} m with a corner at the origin, as stated"],
            {"room_size": list(wanted.room_size)},
            np.zeros(3),
        )
    if measured.corners is None:
        return (
            ['room: its shape is not stated (geometry "none"); --room-size X Y Z states a box'],
            {"geometry": "none"},
            np.zeros(3),
        )
    low, high = measured.corners
    moved = f"; its corner {low.round(3).tolist()} becomes the origin" if np.abs(low).max() > 0 else ""
    return (
        [f"room: a box of {_by(high - low)} m, by the file's corners{moved}"],
        {"room_size": (high - low).tolist()},
        low,
    )


def _by(size: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{x:.2f}" for x in size)


def write_rooms(folders: Mapping[Path, Content], *, dry_run: bool) -> list[str]:
    """Write room folders, read them as training would, and only then give them their names; all of them or none.

    Raises
    ------
    InputError
        When one exists already, cannot be written or cannot be read.
    """
    for folder in folders:
        if folder.exists():
            raise InputError(f"{folder}: exists already; remove it or give another --out")
    some = next(iter(folders))
    made: list[Path] = []
    try:
        if not dry_run:
            some.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=None if dry_run else some.parent, prefix=f".{some.name}.") as scratch:
            lines = []
            for folder, content in folders.items():
                temporary = Path(scratch) / folder.name
                lines.append(_written(temporary, content, folder, dry_run=dry_run))
            for folder in () if dry_run else folders:
                (Path(scratch) / folder.name).replace(folder)
                made.append(folder)
    except OSError as error:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"{some.parent}: cannot be written ({error.strerror or error}); choose another place"
        ) from None
    return lines


def _written(temporary: Path, content: Content, folder: Path, *, dry_run: bool) -> str:
    rirs, positions, description = content
    temporary.mkdir()
    np.save(temporary / "RIRs.npy", rirs)
    np.save(temporary / "xyzs.npy", positions)
    (temporary / "room.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    try:
        room = load_room(temporary)
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), str(folder))) from None
    seconds = rirs.shape[1] / description["sample_rate"]
    splits = ", ".join(
        f"{len(room.splits[split])} {verb}"
        for split, verb in (("train", "train"), ("valid", "validate"), ("test", "test"))
    )
    verb = "would write" if dry_run else "wrote"
    return f"{verb} {folder}: {room.name}, {len(rirs)} RIRs of {seconds:.3f} s; {splits}"
