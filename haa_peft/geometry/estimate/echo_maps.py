"""What measured RIRs say of a room's shape, as seen from its receiver: the panorama network's input.

In each direction and at each distance, how much speaks for a surface there: a wall or a ceiling whose mirrored echoes
arrive when echoes arrive, or anything that scatters. Beside it, for the whole room, how its energy decays.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.geometry.estimate.echoes import echo_evidence
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces, box_around

HEIGHT, WIDTH = 16, 32
"""Of the coarse panorama."""
NEAREST, FARTHEST, DISTANCES, FINER = 0.3, 25.0, 40, 3
"""Metres that surfaces are looked for between, in so many steps of equal ratio, and each in so many finer ones."""
AZIMUTHS = 64
"""Of walls, whose normals are horizontal; the axes are among them."""
STEEPEST = 75.0
"""Degrees between a wall's normal and the directions in which it is looked for."""
ALONG = 25.0
"""Degrees within which a wall counts as faced."""
WALL_STEP = 0.04
"""Metres between the walls' offsets that are tried."""
BLUR = 8.0
"""Samples (standard deviation) that cover walls between ``AZIMUTHS``, and positions a few centimetres off."""
SPANS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds after the direct sound between which energy is summed."""
MAPS = 4
LEVEL_ROWS = slice(MAPS * DISTANCES, MAPS * DISTANCES + len(SPANS) - 1)
"""Channels of energy in the spans."""
CHANNELS = MAPS * DISTANCES + len(SPANS) + 5
"""Of :func:`echo_maps`."""


def echo_maps(rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, floor: float | None) -> Tensor:
    """Evidence of surfaces around the receiver, (CHANNELS, 16, 32) float32, the box around the positions last.

    It is looked up at 120 distances, the best of three to a channel. Beyond some 4 m these lie farther apart than
    evidence is wide, so that of a wall between two of them much is missed.

    Channels are, each for 40 distances: walls that are faced, walls seen at any angle, floor or ceiling, and scattering
    surfaces; then levels of the measurements' energy in seven spans after the direct sound, their mean distance and
    number; and of each direction its elevation (sine, cosine), and the logarithms of the distance to the floor, if it
    is known, and to :func:`~haa_peft.geometry.surfaces.box_around` the positions.

    Parameters
    ----------
    rirs : (N, T) at 22 050 Hz with propagation delay, N at least 3.
    positions, receiver : (N, 3) and (3,) m.
    floor : z of the floor in m, None if it is not known.
    """
    evidence = echo_evidence(rirs, positions, receiver)
    sharp = torch.from_numpy(evidence.log_ratio[0])
    blunt = torch.from_numpy(gaussian_filter1d(evidence.log_ratio[0], BLUR, axis=1, mode="constant").astype(np.float32))
    blunt = blunt * BLUR**0.5
    places = torch.from_numpy(evidence.positions - evidence.receiver).float()
    parts = [
        _walls(blunt, places, ALONG),
        _walls(sharp, places, STEEPEST),
        _floor_and_ceiling(sharp, places),
        _scatterers(blunt, places),
    ]
    rays = torch.from_numpy(directions(HEIGHT, WIDTH)).float()
    levels = _levels(rirs, places)
    whole = torch.cat([levels, places.norm(dim=1).mean()[None].log(), torch.tensor([len(rirs) / 12])])
    down = (-rays[..., 2]).clamp_min(1e-3)
    height = FARTHEST if floor is None or receiver[2] <= floor else float(receiver[2] - floor)
    to_floor = torch.where(rays[..., 2] < 0, (height / down).clamp_max(FARTHEST), torch.tensor(FARTHEST))
    low, high = box_around(np.vstack([positions, receiver]), floor)
    box = render_depth(Surfaces.shoebox(high - low), receiver - low, directions(HEIGHT, WIDTH))
    own = torch.stack([rays[..., 2], rays[..., :2].norm(dim=-1), to_floor.log(), torch.from_numpy(box).float().log()])
    return torch.cat([*parts, whole[:, None, None].expand(-1, HEIGHT, WIDTH), own])


@lru_cache(maxsize=1)
def distances() -> Tensor:
    """Metres that surfaces are looked for at, (DISTANCES * FINER,)."""
    return torch.from_numpy(np.geomspace(NEAREST, FARTHEST, DISTANCES * FINER)).float()


def _heard(table: Tensor, paths: Tensor) -> Tensor:
    """Mean evidence over measurements, from a table (N, T) at paths (N, ...) m."""
    sample = (paths * (SAMPLE_RATE / SPEED_OF_SOUND) + 0.5).long().clamp_max(table.shape[1] - 1)
    found = table.gather(1, sample.flatten(1)).unflatten(1, paths.shape[1:])
    return found.mean(dim=0)


def _planes(table: Tensor, places: Tensor, normals: Tensor) -> Tensor:
    """Evidence (M, R) for planes with normals (M, 3) at offsets of ``WALL_STEP`` m; none before a position."""
    offsets = torch.arange(round(FARTHEST / WALL_STEP)) * WALL_STEP
    towards = places @ normals.T
    across = (places.square().sum(dim=1, keepdim=True) - towards.square()).clamp_min(0)
    paths = (across[..., None] + (2 * offsets - towards[..., None]).square()).sqrt()
    found = _heard(table, paths)
    return torch.where(offsets > towards.amax(dim=0)[:, None], found, 0.0)


@lru_cache(maxsize=2)
def _wall_offsets(width: float) -> tuple[Tensor, Tensor]:
    """Which walls are looked for in column 0, (A,) in steps of azimuth, and their offsets (rows, A, D) in steps."""
    steps = torch.arange(AZIMUTHS)
    away = (steps * (360 / AZIMUTHS) + 180) % 360 - 180
    first = directions(HEIGHT, WIDTH)[HEIGHT // 2, 0]
    seen_at = away - float(np.degrees(np.arctan2(first[1], first[0])) % 360)
    seen_at = (seen_at + 180) % 360 - 180
    kept = steps[seen_at.abs() <= width]
    level = torch.from_numpy(directions(HEIGHT, WIDTH)[:, 0]).float()[:, :2].norm(dim=-1)
    facing = torch.cos(torch.deg2rad(seen_at[kept]))
    offsets = level[:, None, None] * facing[:, None] * distances()
    return kept, (offsets / WALL_STEP).round().long().clamp_max(round(FARTHEST / WALL_STEP) - 1)


def _walls(table: Tensor, places: Tensor, width: float) -> Tensor:
    """The best wall through each point, of those whose normal is within ``width`` degrees: (DISTANCES, 16, 32)."""
    azimuth = torch.arange(AZIMUTHS) * (2 * torch.pi / AZIMUTHS)
    normals = torch.stack([azimuth.cos(), azimuth.sin(), torch.zeros(AZIMUTHS)], dim=1)
    planes = _planes(table, places, normals)
    kept, offsets = _wall_offsets(width)
    columns = []
    for column in range(WIDTH):
        rows = planes[(kept + column * (AZIMUTHS // WIDTH)) % AZIMUTHS]
        found = rows[torch.arange(len(kept))[:, None], offsets]
        columns.append(found.amax(dim=1))
    return _coarser(torch.stack(columns, dim=-1))


def _floor_and_ceiling(table: Tensor, places: Tensor) -> Tensor:
    """A level plane through each point: (DISTANCES, 16, 32)."""
    planes = _planes(table, places, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]))
    rise = torch.from_numpy(directions(HEIGHT, WIDTH)[:, 0, 2]).float()
    offsets = (rise.abs()[:, None] * distances() / WALL_STEP).round().long().clamp_max(planes.shape[1] - 1)
    found = planes[(rise < 0).long()[:, None], offsets]
    return _coarser(found[..., None].expand(-1, -1, WIDTH))


def _scatterers(table: Tensor, places: Tensor) -> Tensor:
    """Something at each point that scatters: (DISTANCES, 16, 32)."""
    rays = torch.from_numpy(directions(HEIGHT, WIDTH)).float()
    points = rays[:, None] * distances()[:, None, None]
    paths = distances()[:, None] + (points - places[:, None, None, None]).norm(dim=-1)
    return _coarser(_heard(table, paths))


def _coarser(found: Tensor) -> Tensor:
    """The best of each ``FINER`` distances that were looked up, (16, D * FINER, 32) -> (D, 16, 32)."""
    return found.unflatten(1, (DISTANCES, FINER)).amax(dim=2).transpose(0, 1)


def _levels(rirs: np.ndarray, places: Tensor) -> Tensor:
    """Energy in the spans relative to the direct sound at 1 m, (7,) nepers, mean over measurements."""
    distance = places.norm(dim=1).numpy()
    onset = np.rint(distance / SPEED_OF_SOUND * SAMPLE_RATE).astype(int)
    sums = np.concatenate(
        [np.zeros((len(rirs), 1)), np.cumsum(np.asarray(rirs, dtype=np.float64) ** 2, axis=1)], axis=1
    )
    edges = onset[:, None] + np.round(np.array((-SPANS[0], *SPANS)) * SAMPLE_RATE).astype(int)
    until = np.take_along_axis(sums, edges.clip(0, rirs.shape[1]), axis=1)
    energy = np.diff(until, axis=1)
    direct = np.maximum(energy[:, :1], 1e-30)
    levels = np.log(np.maximum(energy[:, 1:] / (direct * distance[:, None] ** 2), 1e-9)) / 2
    return torch.from_numpy(levels.mean(axis=0)).float()
