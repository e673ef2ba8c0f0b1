"""Rooms of a simulated corpus by name, ``simulated/SEED-INDEX``: made on first use, kept, and read like measured ones.

They are the rooms that pretraining draws (:mod:`haa_peft.simulation.draw`), with more positions in them, the first ones
being the corpus'. A backbone has not seen those whose seed is none of
:func:`~haa_peft.model.checkpoint.seeds_seen`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.simulation.acoustics import simulate
from haa_peft.simulation.cache import cache_folder, kept
from haa_peft.simulation.corpus import FORMAT
from haa_peft.simulation.draw import DrawnRoom, draw_room

ROOM = "simulated"
POSITIONS = 30
NAME = re.compile(rf"{ROOM}/(0|[1-9]\d{{0,8}})-(0|[1-9]\d{{0,8}})")


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
        raise InputError(f"{name}: no such room; must be {ROOM}/SEED-INDEX, such as {ROOM}/1000-0")
    seed, index = map(int, found.groups())
    drawn = draw_room(seed, index, POSITIONS)
    shape = len(drawn.positions), RIR_LENGTH
    target = (folder or cache_folder() / ROOM) / f"{seed}-{index}-n{POSITIONS}-v{FORMAT}"
    return kept(target, name, shape, lambda: _made(drawn, seed, index))


def _made(drawn: DrawnRoom, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """RIRs, positions and what ``room.json`` says."""
    import pyroomacoustics as pra

    description = {
        "room": ROOM,
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
