"""Simulated twins of HAA's rooms, made on demand and kept: ``classroom-twin/base`` and its like.

From HAA's facts: walls, tables, panels, loudspeaker positions. HAA measured the classroom in one state only, so
the twin's turned and moved loudspeaker and its panel (as high as the dampened room's, twice as wide) are ours.
Simulated as the rooms that the backbone was pretrained on (:mod:`haa_peft.simulation.simulate`), with what real rooms
have and those have not: the shape and plates of HAA's rooms (tables, panels, 2 cm thick), one loudspeaker, which
faces -y (+x in ``rotation``), narrows towards high frequencies and has a frequency response, and white measurement
noise. Absorption is set so that decay times come out near HAA's. Not simulated: room modes, furniture other than
tables, people.
"""

from __future__ import annotations

import dataclasses
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.haa import haa_facts, room_and_configuration
from haa_peft.simulation.cache import cache_folder, kept
from haa_peft.simulation.twin_simulation import LENGTH, Finish, Twin, simulate_twin

VERSION = 2
"""Part of the cache's folder names; raise it when a change here gives other RIRs."""
FEWEST_POSITIONS = 14
CONFIGURATIONS = ("base", "rotation", "translation", "panel", "panel1")
CLASSROOM_TRANSLATION = (1.8, 3.0, 1.2294)
CLASSROOM_PANEL = ((2.6, 1.9, 1.855), (2.6, 1.9, 0.145), (4.53, 1.9, 1.855))
HEIGHTS = (0.9, 1.3, 1.7)
"""Metres; every microphone stand carries one microphone at each, all above the tables."""
WALL_DISTANCE, LOUDSPEAKER_DISTANCE = 0.3, 0.5
FINISHES = {
    "classroom": Finish(0.65, 0.88, (0.7, 0.85, 1, 1.05, 1.05, 1.05, 1.05), (0.8, 0.8, 1.2, 1.4, 0.7, 0.7)),
    "dampened": Finish(0.15, 1.12, (0.8, 0.9, 1, 1.05, 1.05, 1.05, 1.05), (1, 1, 0.9, 1, 1.05, 1.05)),
    "hallway": Finish(0.95, 0.55, (0.9, 1, 1, 1, 1.05, 1.1, 1.2), (1, 1, 1.2, 1.4, 0.8, 0.8)),
}


@cache
def all_twins() -> dict[str, Twin]:
    """The twins of all configurations by name."""
    minus_y, plus_x = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    twins = {}
    for folder, facts in haa_facts().items():
        room, state = room_and_configuration(folder)
        if room in FINISHES and state in CONFIGURATIONS:
            surfaces, facing = Surfaces.from_json(facts["surfaces"], folder), plus_x if state == "rotation" else minus_y
            twins[f"{room}-twin/{state}"] = Twin(FINISHES[room], surfaces, np.array(facts["speaker_xyz"]), facing)
    base = twins["classroom-twin/base"]
    with_panel = Surfaces.from_json([*base.surfaces.to_json(), {"points": CLASSROOM_PANEL}], "classroom-twin/panel")
    twins["classroom-twin/rotation"] = dataclasses.replace(base, facing=plus_x)
    twins["classroom-twin/translation"] = dataclasses.replace(base, loudspeaker=np.array(CLASSROOM_TRANSLATION))
    twins["classroom-twin/panel"] = dataclasses.replace(base, surfaces=with_panel)
    return twins


def twin_names() -> list[str]:
    """Every name that :func:`make_twin` knows, sorted."""
    return sorted(all_twins())


def is_twin_name(name: str) -> bool:
    """Whether ``name`` is one of :func:`twin_names`."""
    return name in all_twins()


def make_twin(name: str, seed: int = 0, n_positions: int = 60, folder: Path | None = None) -> Path:
    """Simulate a twin, unless it has been made before, and say where it is.

    Parameters
    ----------
    name : one of :func:`twin_names`.
    seed : draws the positions (the same for all configurations of a room), the diffuse tails and the noise.
    n_positions : microphone positions, at least 14: 12 to train on and one each to validate and test.
    folder : where twins are kept; ``$HAA_PEFT_CACHE/twins`` or the user's cache folder unless given.

    Returns
    -------
    A room folder: ``RIRs.npy`` (N, 13230) float32 at 22 050 Hz, ``xyzs.npy`` (N, 3) m, ``room.json``.

    Raises
    ------
    InputError
        When the name is unknown, there are too few positions or the folder cannot be written.
    """
    if not is_twin_name(name):
        raise InputError(f"{name}: no such twin; must be one of {', '.join(twin_names())}")
    if n_positions < FEWEST_POSITIONS:
        raise InputError(f"n_positions is {n_positions} but must be at least {FEWEST_POSITIONS}")
    if seed < 0:
        raise InputError(f"seed is {seed} but must be at least 0")
    target = (folder or cache_folder() / "twins") / f"{name}-seed{seed}-n{n_positions}-v{VERSION}"
    return kept(target, name, (n_positions, LENGTH), lambda: _made(name, seed, n_positions))


def _made(name: str, seed: int, n_positions: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """RIRs, positions and what ``room.json`` says."""
    import pyroomacoustics as pra

    twin = all_twins()[name]
    room, configuration = name.split("/")
    positions = draw_positions(room, seed, n_positions)
    description = {
        "room": room,
        "configuration": configuration,
        "sample_rate": SAMPLE_RATE,
        "receiver_xyz": twin.loudspeaker.tolist(),
        "surfaces": twin.surfaces.to_json(),
        "source": f"simulated from the facts of HAA's rooms by haa_peft.simulation.twins, version {VERSION}, "
        f"seed {seed}, with pyroomacoustics {pra.__version__}",
        "licence": "Apache-2.0",
        "description": "receiver_xyz is the loudspeaker, xyzs.npy the microphones (reciprocity, as for HAA)",
        "loudspeaker_facing": twin.facing.tolist(),
    }
    return simulate_twin(twin, positions, name, seed), positions, description


def draw_positions(room: str, seed: int, count: int) -> np.ndarray:
    """Microphone positions (count, 3) m for all configurations of a room: stands spread over its plan.

    Clear of walls and obstacles by 0.3 m and of every configuration's loudspeaker by 0.5 m.
    """
    twins = [twin for name, twin in all_twins().items() if name.startswith(f"{room}/")]
    loudspeakers = np.array([twin.loudspeaker for twin in twins])
    obstacles = np.concatenate([twin.surfaces.points[6:] for twin in twins])
    low, high = twins[0].surfaces.bounds()
    low, high = low[:2] + WALL_DISTANCE, high[:2] - WALL_DISTANCE
    start = np.random.default_rng((seed, zlib.crc32(room.encode()))).random(2)
    positions: list[np.ndarray] = []
    stand = 0
    while len(positions) < count:
        # the R2 sequence (Roberts 2018) fills a plane evenly from any start and for any number of points
        plan = low + (start + stand * np.array([0.7548776662466927, 0.5698402909980532])) % 1 * (high - low)
        stand += 1
        for height in HEIGHTS:
            position = np.array([*plan, height])
            clear = np.linalg.norm(loudspeakers - position, axis=1).min() >= LOUDSPEAKER_DISTANCE
            if clear and all(_distance(position, points) >= WALL_DISTANCE for points in obstacles):
                positions.append(position)
    return np.array(positions[:count])


def _distance(position: np.ndarray, rectangle: np.ndarray) -> float:
    """Metres from a point (3,) to a rectangle (3 points, 3), the corner first."""
    sides = rectangle[1:] - rectangle[0]
    along = ((position - rectangle[0]) @ sides.T / (sides**2).sum(axis=1)).clip(0, 1)
    return float(np.linalg.norm(position - rectangle[0] - along @ sides))
