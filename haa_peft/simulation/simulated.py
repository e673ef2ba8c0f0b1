"""Rooms of a simulated corpus by name, ``simulated/SEED-INDEX``: made on first use, kept, and read like measured ones.

They are the rooms that pretraining draws (:mod:`haa_peft.simulation.draw`), with more positions in them, the first ones
being the corpus'. A backbone has not seen those whose seed is none of
:func:`~haa_peft.pretraining.weights.seeds_seen`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.rooms.room import SIMULATED, Room
from haa_peft.rooms.splits import SHOTS, farthest_points
from haa_peft.simulation.cache import cache_folder, kept
from haa_peft.simulation.corpus import FORMAT
from haa_peft.simulation.draw import DrawnRoom, draw_room
from haa_peft.simulation.simulate import simulate

POSITIONS = 30
NAME = re.compile(rf"{SIMULATED}/(0|[1-9]\d{{0,8}})-(0|[1-9]\d{{0,8}})")


def is_simulated_name(name: str) -> bool:
    """Whether ``name`` is ``simulated/SEED-INDEX``, two whole numbers."""
    return NAME.fullmatch(name) is not None


def make_simulated(name: str, folder: Path | None = None) -> Path:
    """Simulate a room, unless it has been made before, and say where it is.

    Parameters
    ----------
    name : ``simulated/SEED-INDEX``, room INDEX of the corpus of SEED.
    folder : where such rooms are kept; ``$HAA_PEFT_CACHE/simulated`` or the user's cache folder unless given.

    Returns
    -------
    A room folder: ``RIRs.npy`` (30, 9600) float32 at 22 050 Hz, ``xyzs.npy`` (30, 3) m, ``room.json``.

    Raises
    ------
    InputError
        When the name is no such name or the folder cannot be written.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name}: no such room; must be {SIMULATED}/SEED-INDEX, such as {SIMULATED}/1000-0")
    seed, index = map(int, found.groups())
    drawn = draw_room(seed, index, POSITIONS)
    shape = len(drawn.positions), RIR_LENGTH
    target = (folder or cache_folder() / SIMULATED) / f"{seed}-{index}-n{POSITIONS}-v{FORMAT}"
    return kept(target, name, shape, lambda: _made(drawn, seed, index))


def _made(drawn: DrawnRoom, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """RIRs, positions and what ``room.json`` says."""
    import pyroomacoustics as pra

    description = {
        "room": SIMULATED,
        "configuration": f"{seed}-{index}",
        "sample_rate": SAMPLE_RATE,
        "receiver_xyz": drawn.receiver.tolist(),
        "surfaces": drawn.surfaces.to_json(),
        "source": f"simulated: room {index} of seed {seed} drawn by haa_peft.simulation.draw, format {FORMAT}, "
        f"with pyroomacoustics {pra.__version__}",
        "licence": "Apache-2.0",
        "plan": drawn.plan,
        "volume_m3": drawn.volume,
        "t60_s": drawn.t60,
    }
    return simulate(drawn, (seed, index)), drawn.positions, description


def simulated_rooms(count: int, seed: int = 0) -> list[Room]:
    """The first rooms of the corpus ``seed``, with 12 of their positions for training and none for anything else."""
    rooms = []
    for index in range(count):
        drawn = draw_room(seed, index)
        rirs = simulate(drawn, (seed, index))
        train = farthest_points(drawn.positions, SHOTS)
        scale = float(np.abs(rirs[train]).max())
        empty = np.array([], dtype=np.int64)
        splits = {"train": train, "valid": empty, "test": empty}
        rirs = (rirs / scale).astype(np.float32)
        rooms.append(Room(SIMULATED, str(index), rirs, drawn.positions, drawn.receiver, drawn.surfaces, splits, scale))
    return rooms
