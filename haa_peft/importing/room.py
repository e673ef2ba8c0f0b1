"""From measurements to a room folder: choose, check, mend, write whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.commands.outputs import beside
from haa_peft.errors import InputError
from haa_peft.findings import check_measurements, refuse_faults
from haa_peft.findings.decay import decay_range
from haa_peft.findings.finding import ERROR, Finding
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.importing.choose import Fixed, fixed_points
from haa_peft.importing.ears import check_azimuth
from haa_peft.importing.measured import Measurements
from haa_peft.importing.read import read_source
from haa_peft.importing.repair import repaired, shifted
from haa_peft.importing.wanted import REPAIRS, Wanted
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
    said = []
    found = check_azimuth(measured)
    if found and "azimuth" in wanted.repair and not wanted.clockwise:
        said = [one.line for one in found]
        wanted = dataclasses.replace(wanted, clockwise=True)
        measured = read_source(sources, wanted)
        found = check_azimuth(measured)
        said.append("repaired azimuth: azimuths count clockwise")
    said = [*measured.said, *said]
    views, refused = [], []
    every, lines = _one_latency(fixed_points(measured, wanted), measured.rate, wanted)
    said += lines
    for i, fixed in enumerate(every):
        said += [f"receiver {i}:"] if len(every) > 1 else []
        said += fixed.said
        lines, content, wrong = _room(fixed, measured, wanted, out, found)
        said += lines
        views.append(content)
        if wrong and dry_run:
            refused.append(f"would refuse {out}: {', '.join(one.kind for one in wrong)}{_hint(wrong)}")
        elif wrong:
            refuse_faults(wrong, str(out), _hint(wrong))
    if refused:
        return [*said, *dict.fromkeys(refused)]
    return said + write_room(out, views[0] if len(views) == 1 else _joined(views, out), dry_run=dry_run)


def _one_latency(every: list[Fixed], rate: int, wanted: Wanted) -> tuple[list[Fixed], list[str]]:
    """Receivers that were recorded together with the latency that they have in common taken off, and lines."""
    if len(every) < 2 or "latency" not in wanted.repair:
        return every, []
    found = [check_measurements(one.rirs, rate, one.positions, one.receiver) for one in every]
    figures = [one.figures for findings in found for one in findings if one.kind == "latency"]
    samples = np.array([one["samples"] for one in figures])
    if len(figures) < len(every) or samples.std() > rate * max(one["spread_s"] for one in figures):
        return every, []
    taken = float(np.median(samples))
    line = f"repaired latency: {taken:.2f} samples taken off every RIR of all receivers ({samples.min():.2f} to " \
           f"{samples.max():.2f})"  # fmt: skip
    return [dataclasses.replace(one, rirs=shifted(one.rirs, np.full(len(one.rirs), -taken))) for one in every], [line]


def _joined(views: Sequence[Content], folder: Path) -> Content:
    """What several receivers of one room measured, as one folder's; shorter RIRs are filled with zeros."""
    about = [description for _, _, description in views]
    shapes = [{key: one.get(key) for key in ("room_size", "geometry", "sample_rate")} for one in about]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"{folder}: mended for each receiver, they are in rooms of different size; state --room-size")
    longest = max(rirs.shape[1] for rirs, _, _ in views)
    rirs = np.concatenate([np.pad(rirs, ((0, 0), (0, longest - rirs.shape[1]))) for rirs, _, _ in views])
    description = {key: value for key, value in about[0].items() if key != "receiver_xyz"}
    description["receivers"] = [one["receiver_xyz"] for one in about]
    description["receiver_of"] = np.repeat(np.arange(len(views)), [len(rirs) for rirs, _, _ in views]).tolist()
    imported = [[f"receiver {i}:", *one["imported"]] for i, one in enumerate(about)]
    description["imported"] = list(dict.fromkeys(line for lines in imported for line in lines))
    return rirs, np.concatenate([positions for _, positions, _ in views]), description


def _target(out: Path) -> Path:
    """Where to write; its name and its parent's must be names."""
    out = out.absolute()
    for part, what in ((out.name, "configuration"), (out.parent.name, "room")):
        if not re.fullmatch(NAME_PART, part):
            raise InputError(
                f"--out {out}: {what} would be {part!r} but must be letters, digits, - or _; give ROOM/CONFIGURATION"
            )
    return out


def _room(
    fixed: Fixed, measured: Measurements, wanted: Wanted, folder: Path, known: Sequence[Finding]
) -> tuple[list[str], Content, list[Finding]]:
    """What is said of one receiver, what is written, and what speaks against writing it.

    Parameters
    ----------
    fixed, measured, wanted, folder : what is written where.
    known : findings about all receivers.
    """
    rirs, positions, receiver = fixed.rirs, fixed.positions, fixed.receiver
    said, size, origin = _shape(measured, wanted)
    _check_finite(rirs, folder)

    def check() -> list[Finding]:
        surfaces = None if size is None else Surfaces.shoebox(size)
        return check_measurements(rirs, measured.rate, positions - origin, receiver - origin, surfaces)

    found = check()
    for _ in wanted.repair:  # what is mended may show what else is wrong
        rirs, positions, receiver, scale, lines = repaired(rirs, positions, receiver, found, wanted.repair)
        if not lines:
            break
        origin = origin * scale
        size = size * scale if size is not None and wanted.room_size is None else size
        said += [one.line for one in found if one.kind in wanted.repair] + lines
        found = check()
    found = [*known, *found]
    said += [_decay(rirs, measured.rate), *(one.line for one in found)]
    wrong = [] if wanted.allow_faults else [one for one in found if one.severity == ERROR]
    description = {
        "sample_rate": measured.rate,
        "receiver_xyz": (receiver - origin).tolist(),
        **({"geometry": "none"} if size is None else {"room_size": size.tolist()}),
        "room": folder.parent.name,
        "configuration": folder.name,
        "licence": measured.licence,
        "source": measured.origin,
        "imported": [*measured.said, *fixed.said, *said],
    }
    return said, (rirs.astype(np.float32), positions - origin, description), wrong


def _hint(wrong: Sequence[Finding]) -> str:
    kinds = dict.fromkeys(one.kind for one in wrong if one.kind in REPAIRS)
    return f"; --repair mends {' and '.join(kinds)}" if kinds else ""


def _check_finite(rirs: np.ndarray, folder: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(rirs).all(axis=1))
    if len(bad):
        raise InputError(f"{folder}: RIR {bad[0]} holds NaN or infinity; measure it again or remove it")


def _decay(rirs: np.ndarray, rate: int) -> str:
    """The reverberation time, where it can be read above the noise, and why it cannot be where not."""
    usable, noisy, _ = decay_range(rirs, rate)
    t20 = iso_metrics(rirs, rate, bands=())["broadband"]["t20_s"]
    readable = np.isfinite(t20)
    line = (
        f"{np.nanmedian(usable):.0f} dB of decay can be read (median)"
        if np.isfinite(usable).any()
        else "no decay is found"
    )
    if not readable.any():
        ends = "noise" if np.median(noisy) >= 0.5 else "the recording's end"
        return f"{line}: no T20, which needs 35 dB before {ends}"
    some = "" if readable.all() else f" of the {readable.sum()} RIRs that allow it"
    return f"{line}; T20 {np.nanmedian(t20):.2f} s{some}"


def _shape(measured: Measurements, wanted: Wanted) -> tuple[list[str], np.ndarray | None, np.ndarray]:
    """What is said of the room's shape, its size (3,) m if it is a box, and the point (3,) m that is its origin."""
    if wanted.room_size is not None:
        line = f"room: a box of {_by(wanted.room_size)} m with a corner at the origin, as stated"
        return [line], np.array(wanted.room_size), np.zeros(3)
    if measured.corners is None:
        return ['room: its shape is not stated (geometry "none"); --room-size X Y Z states a box'], None, np.zeros(3)
    low, high = measured.corners
    moved = f"; its corner {low.round(3).tolist()} becomes the origin" if np.abs(low).max() > 0 else ""
    return [f"room: a box of {_by(high - low)} m, by the file's corners{moved}"], high - low, low


def _by(size: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{x:.2f}" for x in size)


def write_room(folder: Path, content: Content, *, dry_run: bool) -> list[str]:
    """Write a room folder, read it as training would, and only then give it its name; lines that say so.

    Parameters
    ----------
    folder, content : what is written where.
    dry_run : only say what would be.

    Raises
    ------
    InputError
        When it exists already, cannot be written or cannot be read.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; remove it or give another --out")
    if dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            return [_written(Path(scratch) / folder.name, content, folder, dry_run=True)]
    with beside(folder) as temporary:
        return [_written(temporary, content, folder, dry_run=False)]


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
        f"{room.count(split)} {verb}" for split, verb in (("train", "train"), ("valid", "validate"), ("test", "test"))
    )
    verb = "would write" if dry_run else "wrote"
    receivers = f" at {len(room.at_receivers)} receivers" if room.others else ""
    return f"{verb} {folder}: {room.name}, {len(rirs)} RIRs of {seconds:.3f} s{receivers}; {splits}"
