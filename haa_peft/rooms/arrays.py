"""What was measured: a folder's ``RIRs.npy`` and ``xyzs.npy``, checked row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from haa_peft.acoustics.resampling import resample
from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError

RECORDED_S = 2.0
"""Seconds of RIRs that checks look at."""


def read_arrays(folder: Path, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """RIRs (N, 9600) at 22 050 Hz, measured at ``sample_rate``, and positions (N, 3) m of a folder.

    Raises
    ------
    InputError
        When a file is missing or damaged, the two do not belong together, or a row is silent or not finite.
    """
    rirs, positions = _read_array(folder / "RIRs.npy"), _read_array(folder / "xyzs.npy")
    if rirs.ndim != 2 or rirs.shape[1] == 0 or positions.ndim != 2 or positions.shape[1] != 3:
        raise InputError(
            f"{folder}: RIRs.npy is {rirs.shape} and xyzs.npy {positions.shape}, but they must be (N, T) and (N, 3)"
        )
    if len(rirs) != len(positions):
        raise InputError(
            f"{folder}: RIRs.npy holds {len(rirs)} RIRs but xyzs.npy {len(positions)} positions; "
            "give one position for each RIR"
        )
    if len(rirs) < 2:
        raise InputError(f"{folder}: holds {len(rirs)} measurements but needs at least 2")
    # the resampler looks 6 zero crossings ahead; 256 samples are far more
    needed = -(-RIR_LENGTH * sample_rate // SAMPLE_RATE) + 256
    cut = np.array(rirs[:, :needed], dtype=np.float32)
    positions = np.array(positions, dtype=np.float64)
    for array, what in ((cut, "RIR"), (positions, "position")):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise InputError(f"{folder}: {what} {bad[0]} holds NaN or infinity; measure it again or remove it")
    seconds = min(RIR_LENGTH / SAMPLE_RATE, rirs.shape[1] / sample_rate)
    silent = np.flatnonzero(np.abs(cut).max(axis=1) == 0)
    if len(silent):
        raise InputError(
            f"{folder}: RIR {silent[0]} is silent in its first {seconds:.3f} s; measure it again or remove it"
        )
    return resample(cut, sample_rate), positions


def read_recorded(
    folder: Path, sample_rate: int, seconds: float = RECORDED_S, *, rows: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """RIRs (N, T) as a folder holds them, and their rate in Hz.

    Parameters
    ----------
    folder, sample_rate : where they are, and at what rate.
    seconds : no more of their beginning than this.
    rows : (N,) those to read; all unless given.
    """
    rirs = _read_array(folder / "RIRs.npy")
    rirs = rirs if rows is None else rirs[rows]
    return np.array(rirs[:, : round(seconds * sample_rate)], dtype=np.float32), sample_rate


def _read_array(path: Path) -> np.ndarray:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: is no plain file; a room folder needs RIRs.npy and xyzs.npy")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a room folder needs RIRs.npy and xyzs.npy") from None
    except Exception as error:  # whatever a damaged file makes of numpy's reader
        raise InputError(f"{path}: cannot be read as a .npy array ({error or 'it is empty'})") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: cannot be read as a .npy array; it is an archive of several")
    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{path}: holds {array.dtype} but must hold real numbers")
    return array
