"""Folders and lists of sound files, one file an RIR, or one file whose channels are the RIRs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haa_peft.errors import InputError
from haa_peft.importing.measured import check_size

ENDINGS = (".wav", ".flac")
TABLES = (".csv", ".tsv", ".json", ".txt", ".npy")


def sound_files(sources: Sequence[Path]) -> list[Path]:
    """The sound files of folders and of a list, each folder's in natural order: ``rir_2`` before ``rir_10``."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted((one for one in source.iterdir() if one.suffix.lower() in ENDINGS), key=_natural)
        else:
            found.append(source)
    return found


def positions_beside(sources: Sequence[Path]) -> Path | None:
    """The one table in a folder of sound files; None if there is none or more than one."""
    if len(sources) != 1 or not sources[0].is_dir():
        return None
    found = [one for one in sources[0].iterdir() if one.suffix.lower() in TABLES and not one.name.startswith(".")]
    return found[0] if len(found) == 1 else None


def read_sounds(files: Sequence[Path]) -> tuple[np.ndarray, int, list[str]]:
    """Sounds (N, C, T) of files, their sample rate, and what is to be said.

    Raises
    ------
    InputError
        When a file is damaged, or rates or numbers of channels differ.
    """
    import soundfile

    read = []
    for file in files:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise InputError(f"{file}: is no plain file; take it out")
        try:
            about = soundfile.info(file)
            check_size((len(files), about.channels, about.frames), file)
            data, rate = soundfile.read(file, dtype="float64", always_2d=True)
        except InputError:
            raise
        except (OSError, RuntimeError) as error:
            raise InputError(f"{file}: cannot be read as a sound file ({' '.join(str(error).split())})") from None
        if not len(data):
            raise InputError(f"{file}: holds no samples; measure it again or take it out")
        read.append((data.T, rate, about.subtype_info))
    for what, values in (("Hz", [rate for _, rate, _ in read]), ("channels", [len(data) for data, _, _ in read])):
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise InputError(f"{files[other]}: has {values[other]} {what} but {files[0].name} has {values[0]}")
    lengths = [data.shape[1] for data, _, _ in read]
    longest = max(lengths)
    sounds = np.stack([np.pad(data, ((0, 0), (0, longest - data.shape[1]))) for data, _, _ in read])
    count = f"{len(files)} files" if len(files) > 1 else files[0].name
    said = [f"{count}: {sounds.shape[1]} channel(s), {longest} samples at {read[0][1]} Hz, {read[0][2]}"]
    if min(lengths) < longest:
        said.append(f"lengths from {min(lengths)} to {longest} samples; shorter ones were filled with zeros")
    return sounds, read[0][1], said


def in_order_of(files: Sequence[Path], names: Sequence[str], table: Path) -> list[int]:
    """Rows of a table, one for each file, by its name with or without ending; raises ``InputError`` if one has none."""
    rows: dict[str, int] = {}
    for i, name in enumerate(names):
        for key in {Path(name).name, Path(name).stem, name}:
            if key in rows and rows[key] != i:
                raise InputError(f"{table}: names {name!r} twice")
            rows[key] = i
    order = []
    for file in files:
        row = rows.get(file.name, rows.get(file.stem))
        if row is None:
            raise InputError(f"{table}: has no row for {file.name}; it has {', '.join(names[:3])}, ...")
        order.append(row)
    return order


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
