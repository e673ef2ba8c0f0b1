"""The ways to a depth panorama that a ``geometry`` entry may name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.entry import check_keys
from haa_peft.geometry.estimate.depth_file import read_depth_map
from haa_peft.geometry.estimate.mesh import read_mesh
from haa_peft.geometry.estimate.network import predict_depth
from haa_peft.geometry.estimate.photo import read_photo
from haa_peft.geometry.estimate.shoebox import estimate_shoebox
from haa_peft.geometry.estimate.sight import sight_notes
from haa_peft.geometry.estimate.values import choice, number
from haa_peft.geometry.panorama import PANORAMA_HEIGHT, PANORAMA_WIDTH, DepthMap, directions, render_depth
from haa_peft.geometry.sources import NETWORK, SOUND, Known

FEWEST_RIRS = 3
"""That echoes can be told from chance with."""
READERS = {"mesh": read_mesh, "depth": read_depth_map, "rgb": read_photo}


def read_source(source: str, entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """The depth panorama that an entry describes.

    Parameters
    ----------
    source, entry, folder, known, where : as :func:`haa_peft.geometry.estimate.estimate` takes them.

    Raises
    ------
    InputError
        When the entry is wrong, its file is, or measurements are too few.
    """
    if source == SOUND:
        check_keys(entry, (SOUND, "floor"), where)
        how = choice(entry, SOUND, ("shoebox", NETWORK), None, where)
        floor = number(entry, "floor", -1000, 1000, 0.0, where)
        if known.rirs is None or len(known.rirs) < FEWEST_RIRS:
            raise InputError(
                f"{where}: geometry from sound needs {FEWEST_RIRS} training measurements or more, and leaving one out "
                f"for validation {FEWEST_RIRS + 1}"
            )
        return _network(known.rirs, known, floor) if how == NETWORK else _shoebox(known.rirs, known, floor)
    if source == "constant":
        check_keys(entry, ("constant",), where)
        metres = number(entry, "constant", 0.3, 100, None, where)
        if metres is None:
            raise InputError(f"{where}: geometry constant is null but must be a number of metres from 0.3 to 100")
        depth = np.full((PANORAMA_HEIGHT, PANORAMA_WIDTH), metres)
        return DepthMap.unbounded(depth, f"constant: {metres:g} m in every direction", sight_notes(depth, known))
    path = folder / str(entry[source])
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    arrays = (known.receiver, known.positions, known.heard, known.travelled)
    key = tuple((array.dtype.str, array.shape, array.tobytes()) for array in arrays)
    return _read_file(source, json.dumps(entry, sort_keys=True), folder, where, stamp, key)


@lru_cache(maxsize=32)
def _read_file(source: str, entry: str, folder: Path, where: str, stamp: object, known: tuple) -> DepthMap:
    """Kept in memory: a study loads a room many times."""
    arrays = (np.frombuffer(content, dtype).reshape(shape) for dtype, shape, content in known)
    return READERS[source](json.loads(entry), folder, Known(*arrays), where)


def _shoebox(rirs: np.ndarray, known: Known, floor: float | None) -> DepthMap:
    """The box that echoes speak for; positions may lie outside it, since it is an estimate."""
    box = estimate_shoebox(rirs, known.positions[known.heard], known.receiver, floor)
    depth = render_depth(box.surfaces, known.receiver, directions())
    notes = (box.in_words(), *sight_notes(depth, known))
    return DepthMap.unbounded(depth, "echoes of the training measurements", notes, "estimated")


def _network(rirs: np.ndarray, known: Known, floor: float | None) -> DepthMap:
    """What a network that was trained on simulated rooms makes of echoes and decay."""
    depth, factor = predict_depth(rirs, known.positions[known.heard], known.receiver, floor)
    off = f"by its own estimate off by a factor of {factor:.2f} on the mean, as in rooms like those it learned from"
    notes = (off, *sight_notes(depth, known))
    return DepthMap.unbounded(depth, "a network's reading of the training measurements", notes, "estimated")
