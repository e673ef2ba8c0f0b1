"""WAV files with a table of positions, and NumPy's arrays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.exporting.responses import Responses

TABLE = "positions.csv"


def write_sounds(responses: Responses, folder: Path) -> None:
    """Make a folder of WAV files of 32-bit floats, one a position, and ``positions.csv``.

    Parameters
    ----------
    responses : what is written.
    folder : is made.
    """
    import soundfile

    folder.mkdir()
    count = len(responses.rirs)
    names = [f"rir_{i:0{len(str(count))}}.wav" for i in range(1, count + 1)]
    for name, rir in zip(names, responses.rirs, strict=True):
        soundfile.write(folder / name, rir, responses.sample_rate, subtype="FLOAT", format="WAV")
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        for line in (f"RIRs of {responses.room}", responses.about, f"licence of the data: {responses.licence}"):
            file.write(f"# {' '.join(line.split())}\n")
        table = csv.writer(file)
        table.writerow(["file", *(f"{end}_{axis}_m" for end in ("source", "receiver") for axis in "xyz")])
        for name, *ends in zip(names, responses.positions.tolist(), responses.receivers.tolist(), strict=True):
            table.writerow([name, *ends[0], *ends[1]])


def write_arrays(responses: Responses, path: Path) -> None:
    """Write a ``.npz`` file of ``rirs``, ``positions``, ``receiver`` (one, or one a position), ``sample_rate``, texts.

    Parameters
    ----------
    responses : what is written.
    path : the file, which ends in ``.npz``.
    """
    receivers = np.array(responses.receivers)
    same = (receivers == receivers[0]).all()
    arrays: dict[str, Any] = {
        "rirs": responses.rirs,
        "positions": responses.positions,
        "receiver": receivers[0] if same else receivers,
        "sample_rate": responses.sample_rate,
        **{name: getattr(responses, name) for name in ("room", "licence", "about")},
        **({} if responses.box is None else {"box": responses.box}),
    }
    np.savez(path, **arrays)
