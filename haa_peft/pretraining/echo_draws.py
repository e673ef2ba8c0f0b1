"""What the panorama network learns from: measurements of simulated rooms as people make them, and the true depth."""

from __future__ import annotations

import numpy as np
import torch

from haa_peft.geometry.estimate.echo_maps import HEIGHT, WIDTH, echo_maps
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.rooms.splits import SHOTS
from haa_peft.simulation.corpus import Corpus

FEWEST = 3
FINER = 4
"""Rows and columns of depths whose logarithms are averaged to one."""
FARTHEST_OFF = 0.1
"""Metres (standard deviation) that positions are off at most."""
NOISE = (-80.0, -40.0)
"""Decibels relative to the largest magnitude."""
FLOOR_KNOWN = 0.7


def draw_maps(corpus: Corpus, seed: int, plain: bool, job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Echo maps (CHANNELS, 16, 32) of one draw of one room, and its true logarithmic depth (16, 32).

    Parameters
    ----------
    corpus : the simulated rooms.
    seed : decides, with the job, what is drawn.
    plain : the usual number of measurements, without noise or misplaced positions, and a known floor.
    job : number of the room and of the draw.
    """
    index, draw = job
    torch.set_num_threads(1)
    room = corpus[index]
    rng = np.random.default_rng((seed, index, draw))
    count = SHOTS if plain or draw % 2 == 0 else int(rng.integers(FEWEST, SHOTS))
    kept = rng.permutation(len(room.positions))[:count]
    rirs, positions = room.rirs[kept].astype(np.float64), room.positions[kept].astype(np.float64)
    floor: float | None = 0.0
    if not plain:
        positions = positions + rng.normal(size=positions.shape) * rng.choice([0, rng.uniform(0, FARTHEST_OFF)])
        level = 10 ** (rng.uniform(*NOISE) / 20) * rng.integers(2)
        rirs = rirs + rng.normal(size=rirs.shape) * np.abs(rirs).max(axis=1, keepdims=True) * level
        floor = 0.0 if rng.random() < FLOOR_KNOWN else None
    maps = echo_maps(rirs, positions, room.receiver.astype(np.float64), floor)
    assert room.surfaces is not None
    fine = render_depth(room.surfaces, room.receiver, directions(FINER * HEIGHT, FINER * WIDTH))
    fine = np.where(np.isfinite(fine), fine, fine[np.isfinite(fine)].max())
    depth = np.log(fine).reshape(HEIGHT, FINER, WIDTH, FINER).mean(axis=(1, 3))
    return maps.numpy().astype(np.float16), depth.astype(np.float32)
