"""Arrays of RIRs in ``.npy``, ``.npz`` and ``.mat`` files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.importing.measured import check_size

WHAT = {
    "rirs": ("rirs", "rir", "h", "ir", "irs", "impulse_responses", "hir", "data"),
    "positions": ("positions", "xyz", "xyzs", "pos", "source_positions", "mic_positions", "microphone_positions"),
    "receiver": ("receiver", "receiver_xyz", "rec", "listener", "receiver_position"),
    "rate": ("fs", "sample_rate", "rate", "sr", "samplerate", "fsamp"),
}
"""What is read, and names of variables that are taken for it without being told."""


def read_variables(path: Path, names: Mapping[str, str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Variables of an array file by what they are, of ``WHAT``, and what was taken for what; RIRs (N, T) or other.

    Parameters
    ----------
    path : ``.npy`` (the RIRs), ``.npz`` or ``.mat`` of any version.
    names : of variables, by what they are, where people say so.

    Raises
    ------
    InputError
        When the file is damaged, a variable is not there, or none can be told to be the RIRs.
    """
    if path.suffix.lower() == ".npy":
        return {"rirs": _loaded(path, lambda: np.load(path, allow_pickle=False, mmap_mode="r"))}, []
    every = _loaded(path, lambda: _npz(path) if path.suffix.lower() == ".npz" else _mat(path))
    there = ", ".join(f"{name} {array.shape}" for name, array in every.items())
    found, said = {}, []
    for what, known in WHAT.items():
        name = names.get(what)
        if name is not None and name not in every:
            raise InputError(f"{path}: has no variable {name!r} ({what}); it has {there}")
        if name is None:
            lower = {key.lower(): key for key in every}
            name = next((lower[key] for key in known if key in lower), None)
        if name is not None:
            found[what] = every[name]
            said.append(f"variable {name} {every[name].shape}: {what}")
    if "rirs" not in found:
        raise InputError(f"{path}: holds {there or 'no numbers'}; say which are RIRs with --variables rirs=NAME")
    return found, said


def _loaded(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader
        kind, text = path.suffix.lower(), " ".join(str(error).split()) or "it is empty"
        raise InputError(f"{path}: cannot be read as a {kind} file ({text:.120})") from None


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if np.issubdtype(archive[name].dtype, np.number)}


def _mat(path: Path) -> dict[str, np.ndarray]:
    """Numeric variables of a MATLAB file, those of version 7.3 (HDF5) too."""
    from scipy.io import loadmat

    try:
        every = loadmat(path)
    except NotImplementedError:
        with package("h5py", "a MATLAB 7.3 file", "import").File(path) as file:
            sets = {name: item for name, item in file.items() if getattr(item, "dtype", None) is not None}
            for name, item in sets.items():
                check_size(item.shape, f"{path}: {name}")
            # MATLAB counts dimensions the other way round
            every = {name: np.asarray(item).T for name, item in sets.items()}
    return {
        name: array
        for name, array in every.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and not name.startswith("__")
    }


def as_rirs(array: np.ndarray, rows: int | None, path: object) -> tuple[np.ndarray, list[str]]:
    """RIRs (N, C, T) of an array (N, T), (T, N), (N, C, T) or (T, C, N), by the number of positions.

    Parameters
    ----------
    array : as read.
    rows : number of positions, None where nothing says.
    path : what an error begins with.

    Raises
    ------
    InputError
        When the array has other dimensions, is no real numbers, or no dimension is as long as the positions.
    """
    check_size(array.shape, path)
    array = np.squeeze(array) if array.ndim > 3 else array
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: RIRs are {array.dtype} {array.shape} but must be real numbers (N, T) or (N, C, T)")
    if rows is None or array.shape[0] == rows:
        turned, said = array, []
    elif rows in array.shape[1:]:
        axis = 1 + array.shape[1:].index(rows)
        turned = np.moveaxis(array, axis, 0)
        if turned.ndim == 3 and turned.shape[1] > turned.shape[2]:
            turned = turned.swapaxes(1, 2)
        said = [f"RIRs: turned from {array.shape} to {turned.shape}, since there are {rows} positions"]
    else:
        raise InputError(f"{path}: RIRs are {array.shape}, and no dimension is {rows}, the number of positions")
    turned = turned[:, None] if turned.ndim == 2 else turned
    return np.asarray(turned, dtype=np.float64), said
