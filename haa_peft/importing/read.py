"""A source as measurements: what kind it is, and where its positions come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haa_peft.errors import InputError
from haa_peft.importing.arrays import as_rirs, read_variables
from haa_peft.importing.audio import ENDINGS, in_order_of, positions_beside, read_sounds, sound_files
from haa_peft.importing.measured import Measurements
from haa_peft.importing.sofa import read_sofa
from haa_peft.importing.table import Positions, of_array, read_positions
from haa_peft.importing.wanted import Wanted

ARRAYS = (".mat", ".npy", ".npz")


def read_source(sources: Sequence[Path], wanted: Wanted) -> Measurements:
    """Measurements of a SOFA file, of sound files, or of an array file.

    Raises
    ------
    InputError
        When there is no such source, it is damaged, or something that it does not say is not stated.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
    kind = sources[0].suffix.lower()
    if len(sources) == 1 and sources[0].is_file() and kind == ".sofa":
        _check_unused(wanted, ("positions", "rate", "units", "variables"), "a SOFA file says that itself")
        return read_sofa(sources[0], clockwise=wanted.clockwise)
    if len(sources) == 1 and sources[0].is_file() and kind in ARRAYS:
        return _read_arrays(sources[0], wanted)
    files = sound_files(sources)
    other = next((file for file in files if file.suffix.lower() not in ENDINGS), None)
    if other is not None or not files:
        raise InputError(
            f"{other or sources[0]}: is no source; give a .sofa, {', '.join(ARRAYS)} file, "
            f"or a folder or a list of {' and '.join(ENDINGS)} files"
        )
    _check_unused(wanted, ("rate", "variables"), "sound files say that themselves")
    table = wanted.positions or positions_beside(sources)
    if table is None:
        raise InputError(f"{sources[0]}: nothing says where the files were measured; give --positions FILE (CSV, JSON)")
    positions = read_positions(table, wanted.units, clockwise=wanted.clockwise)
    sounds, rate, said = read_sounds(files)
    rows = _count(positions)
    if positions.names is not None:
        order = in_order_of(files, positions.names, table)
        said.append(
            f"{table.name}: rows belong to files by name"
            + (f"; {rows - len(order)} rows have none" if rows > len(order) else "")
        )
        positions = _rows(positions, np.array(order))
    elif len(files) == 1 and sounds.shape[1] == rows:
        sounds = sounds.swapaxes(0, 1)
        said.append(f"its channels are taken for the {rows} positions of {table.name}")
    elif rows == len(files):
        said.append(f"{table.name}: rows belong to files in their order, {files[0].name} to {files[-1].name}")
    else:
        raise InputError(f"{table}: has {rows} positions but there are {len(files)} files; give one for each")
    return _assembled(sounds, rate, positions, None, wanted, said, ", ".join(one.name for one in sources[:2]))


def _check_unused(wanted: Wanted, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(wanted, name):
            raise InputError(f"--{name} does not go with this source: {why}")


def _count(positions: Positions) -> int:
    return len(positions.sources if positions.sources is not None else np.asarray(positions.receivers))


def _rows(positions: Positions, rows: np.ndarray) -> Positions:
    sources, receivers = (None if end is None else end[rows] for end in (positions.sources, positions.receivers))
    return Positions(None, sources, receivers, positions.around, positions.said)


def _read_arrays(path: Path, wanted: Wanted) -> Measurements:
    found, said = read_variables(path, wanted.variables)
    if wanted.positions is not None:
        positions = read_positions(wanted.positions, wanted.units, clockwise=wanted.clockwise)
    elif "positions" in found:
        positions = of_array(found["positions"], path, wanted.units)
    else:
        raise InputError(
            f"{path}: nothing says where it was measured; give --positions FILE, or --variables positions=NAME"
        )
    if positions.names is not None:
        said.append(f"{wanted.positions}: rows belong to RIRs in their order")
    rate = wanted.rate
    if rate is None:
        stated = np.ravel(found["rate"]) if "rate" in found else np.empty(0)
        if len(stated) != 1 or stated[0] != int(stated[0]):
            raise InputError(f"{path}: nothing says its sample rate; give --rate HZ")
        rate = int(stated[0])
    rirs, turned = as_rirs(found["rirs"], _count(positions), path)
    said += [*turned, f"{rirs.shape[0]} RIRs of {rirs.shape[1]} channel(s), {rirs.shape[2]} samples at {rate} Hz"]
    receiver = None
    if "receiver" in found and not wanted.receivers:
        receiver = (
            np.asarray(found["receiver"], dtype=float).reshape(-1, 3) if found["receiver"].size % 3 == 0 else None
        )
        if receiver is None or len(receiver) not in (1, len(rirs), rirs.shape[1]):
            raise InputError(f"{path}: the receiver has shape {found['receiver'].shape} but must be x y z")
        if wanted.units is not None:
            receiver = receiver * of_array(np.ones((1, 3)), path, wanted.units).sources
    return _assembled(rirs, rate, positions, receiver, wanted, said, path.name)


def _assembled(
    rirs: np.ndarray,
    rate: int,
    positions: Positions,
    receiver: np.ndarray | None,
    wanted: Wanted,
    said: list[str],
    origin: str,
) -> Measurements:
    """Measurements of RIRs (N, C, T) at positions, with the receivers that a table or people state."""
    count, channels, length = rirs.shape
    if positions.receivers is not None:
        heard = positions.receivers[:, None]
    elif wanted.receivers:
        heard = np.array(wanted.receivers)[None]
        if heard.shape[1] not in (1, channels):
            raise InputError(
                f"--receiver is given {heard.shape[1]} times for {channels} channels; give one, or one for each"
            )
    elif receiver is not None:
        heard = receiver[:, None] if len(receiver) == count and count != channels else receiver[None]
    else:
        raise InputError(
            f"{origin}: nothing says where the receiver is; give --receiver X Y Z (the point that stays fixed)"
        )
    heard = np.broadcast_to(heard, (count, channels, 3))
    if positions.sources is None:
        if not wanted.receivers:
            raise InputError(
                f"{origin}: the table says where it was heard, not where sound came from; give --receiver X Y Z, which "
                "stays fixed"
            )
        sent, heard = np.broadcast_to(np.array(wanted.receivers[:1])[None], heard.shape), heard
    else:
        sent = np.broadcast_to(positions.sources[:, None], heard.shape)
        sent = sent + heard if positions.around else sent
    return Measurements(
        rirs=rirs.reshape(-1, length),
        rate=rate,
        sources=sent.reshape(-1, 3),
        receivers=heard.reshape(-1, 3),
        channels=np.broadcast_to(np.arange(channels), (count, channels)).ravel(),
        said=(*said, *positions.said),
        origin=origin,
        angular=positions.around,
    )
