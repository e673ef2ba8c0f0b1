"""Where a room's geometry comes from: what a ``geometry`` entry may say, in ``room.json`` or behind ``--geometry``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import sounding_part
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.entry import check_keys, point
from haa_peft.geometry.panorama import DepthMap, Geometry, directions, render_depth
from haa_peft.geometry.surfaces import BESIDE, Surfaces, box_around
from haa_peft.satellites import satellite

NOTHING, SOUND, NETWORK = "none", "sound", "network"
WORDS: dict[str, dict[str, Any] | None] = {
    NOTHING: None, SOUND: {SOUND: "shoebox"}, "sound-network": {SOUND: NETWORK}
}  # fmt: skip
"""Entries that a word says."""
FILES = {
    "mesh": (".obj", ".ply", ".glb", ".gltf", ".stl", ".off"),
    "depth": (".npy", ".png", ".exr"),
    "rgb": (".jpg", ".jpeg", ".webp"),
}
"""Sources that are read from a file, by its endings."""
SOURCES = ("room_size", "surfaces", *FILES, SOUND, "constant")


@dataclass(frozen=True)
class Known:
    """What is known of a room besides its geometry.

    Attributes
    ----------
    receiver : (3,) metres in room coordinates.
    positions : (N, 3) metres in room coordinates.
    heard : indices of the positions whose measurements may be looked at, those that train.
    travelled : (M,) metres that their direct sound has come, by its delay.
    rirs : (M, T) at 22 050 Hz, of the heard ones; for geometry from sound alone.
    """

    receiver: np.ndarray
    positions: np.ndarray
    heard: np.ndarray
    travelled: np.ndarray
    rirs: np.ndarray | None = None

    @classmethod
    def of(cls, receiver: np.ndarray, positions: np.ndarray, rirs: np.ndarray, train: np.ndarray) -> Known:
        """From what was measured; the onset is 20 dB below the peak (ISO 3382-1).

        Parameters
        ----------
        receiver, positions : (3,) and (N, 3) m.
        rirs : (N, T) at 22 050 Hz.
        train : indices (M,) that may be heard.
        """
        onset, _ = sounding_part(rirs[train].astype(np.float64))
        return cls(receiver, positions, train, onset / SAMPLE_RATE * SPEED_OF_SOUND, rirs[train])


def read_geometry(given: object, folder: Path, known: Known, where: str) -> Geometry:
    """The geometry that an entry describes.

    Parameters
    ----------
    given : an object with one of the keys ``SOURCES``, ``"none"``, or the name of a file whose ending says what it is.
    folder : that file names are relative to.
    known : receiver, positions and direct sound, which everything but planes is checked against.
    where : what an error begins with.

    Raises
    ------
    InputError
        When the entry or a file is wrong, or contradicts what is known.
    """
    entry = _entry(given, where)
    if entry is None:
        return nothing_known(known)
    (source,) = [key for key in SOURCES if key in entry]
    if source == "room_size":
        check_keys(entry, ("room_size",), where)
        size = point(entry["room_size"], where, "room_size")
        if size.min() <= 0:
            raise InputError(f"{where}: room_size is {size.tolist()} but must be three positive metres")
        return Surfaces.shoebox(size)
    if source == "surfaces":
        check_keys(entry, ("surfaces",), where)
        return Surfaces.from_json(entry["surfaces"], where)
    return satellite("geometry.estimate", f"geometry {source}").estimate(source, entry, folder, known, where)


def follows_measurements(given: object) -> bool:
    """Whether a geometry is made from the training measurements or their positions, and is another with others.

    A photograph's scale is: it is fitted to positions that are heard straight.
    """
    return (isinstance(given, str) and given in WORDS) or (
        isinstance(given, Mapping) and not {SOUND, "rgb"}.isdisjoint(given)
    )


def _entry(given: object, where: str) -> dict[str, Any] | None:
    """What was given as an object; None for nothing at all."""
    if isinstance(given, str) and given in WORDS:
        return WORDS[given]
    if isinstance(given, str):
        source = next((key for key, endings in FILES.items() if Path(given).suffix.lower() in endings), "")
        if source in ("mesh", "depth"):
            return {source: given}
        if source:
            raise InputError(
                f'{where}: geometry {given!r} is a photograph; give {{"rgb": "{given}", "model": MODEL}}, MODEL being '
                "a depth-estimation model of transformers, a folder or a name on the Hub"
            )
    if not isinstance(given, Mapping) or len([key for key in SOURCES if key in given]) != 1:
        raise InputError(
            f"{where}: geometry is {given!r:.60} but must be {', '.join(map(repr, WORDS))}, a mesh "
            f"({', '.join(FILES['mesh'])}), a depth panorama ({', '.join(FILES['depth'])}) or an object with one of "
            f"{', '.join(SOURCES)}"
        )
    return dict(given)


def geometry_argument(given: object) -> tuple[object, Path, str]:
    """What ``--geometry``, a study or a caller gives: the entry, the folder of its files, and its name for errors.

    ``none``, ``sound``, ``sound-network``, a mesh, a depth panorama, an entry itself, or a JSON file that holds one,
    also under ``geometry`` as in ``room.json``. Raises ``InputError`` for anything else.
    """
    if not isinstance(given, str):
        return _entry(given, "--geometry"), Path(), "--geometry"
    text, path = given, Path(given)
    if text in WORDS or path.suffix.lower() != ".json":
        if text not in WORDS and not path.is_file():
            raise InputError(
                f"--geometry is {text!r} but must be {', '.join(WORDS)}, a mesh, a depth panorama or a JSON file"
            )
        return text, Path(), f"--geometry {text}"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--geometry {text}: cannot be read as JSON ({error})") from None
    if isinstance(entry, dict):
        found = [entry[key] if key == "geometry" else {key: entry[key]} for key in ("geometry", "room_size", "surfaces")
                 if key in entry]  # fmt: skip
        entry = found[0] if len(found) == 1 else entry
    return entry, path.parent, f"--geometry {text}"


def nothing_known(known: Known) -> DepthMap:
    """A box around the receiver and the positions that may be looked at, for a room of which nothing else is known.

    The floor is taken at z = 0 if that lies below them all.
    """
    low, high = box_around(np.concatenate([known.receiver[None], known.positions[known.heard]]))
    rays = directions()
    depth = render_depth(Surfaces.shoebox(high - low), known.receiver - low, rays)
    size = " x ".join(f"{x:.1f}" for x in high - low)
    notes = (
        f"a box of {size} m, {BESIDE} m beyond the measured positions, floor at z = {low[2]:.2f} m",
        "its walls are not the room's: the measurements alone say how the room sounds",
    )
    return DepthMap.unbounded(depth, "nothing: a box around the positions", notes)
