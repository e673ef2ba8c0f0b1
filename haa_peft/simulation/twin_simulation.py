"""How a twin sounds: walls, loudspeaker, response and noise of :mod:`haa_peft.simulation.twins`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.simulation.draw import OCTAVE_BANDS, DrawnRoom, Face, eyring_absorption
from haa_peft.simulation.simulate import simulate

LENGTH = 13_230
"""Samples of a stored RIR at 22 050 Hz (0.6 s)."""
SCATTERING = 0.15
OBSTACLE_ABSORPTION, OBSTACLE_THICKNESS = 0.1, 0.02
NOISE_RMS = 10 ** (-90 / 20)
"""Re the direct sound 1 m in front of the loudspeaker; 22 050 Hz wide, the same at every position."""
RESPONSE_HZ = (0, 40, 80, 110, 180, 350, 700, 1200, 2000, 3200, 5000, 8000, SAMPLE_RATE / 2)
RESPONSE_DB = (-50, -30, -8, -1, 2, 0, -1.5, 1, -1, 1.5, 0, -2, -5)
REAR_LEVEL = (0.85, 0.7, 0.5, 0.32, 0.2, 0.12, 0.08)
SHARPNESS = (1, 1, 1, 1.2, 1.6, 2.2, 3)
"""Of the loudspeaker's beam, per octave band."""


@dataclass(frozen=True)
class Finish:
    """What the walls are made of: decay time in s, and absorption relative to its mean.

    ``correction`` is how much more than Eyring's absorption the simulation needs to decay in ``t60``; ``walls``
    are in the order of HAA's facts: south, north, floor, ceiling, west, east.
    """

    t60: float
    correction: float
    bands: tuple[float, ...]
    walls: tuple[float, ...]


@dataclass(frozen=True)
class Twin:
    """One configuration: six walls and then obstacles (a panel last), the loudspeaker's place (m) and direction."""

    finish: Finish
    surfaces: Surfaces
    loudspeaker: np.ndarray
    facing: np.ndarray


def _corners(points: np.ndarray) -> np.ndarray:
    """The four corners (4, 3) of a parallelogram (3 points, 3), in order around it."""
    return np.array([points[0], points[1], points[1] + points[2] - points[0], points[2]])


def _faces(twin: Twin) -> list[Face]:
    """Walls, and obstacles as plates."""
    low, high = twin.surfaces.bounds()
    quads = [_corners(points) for points in twin.surfaces.points]
    normals = [np.cross(quad[1] - quad[0], quad[3] - quad[0]) for quad in quads]
    weights = np.array(twin.finish.walls)
    weights = weights / np.average(weights, weights=np.linalg.norm(normals[:6], axis=1))
    x, y, z = high - low
    mean = eyring_absorption(x * y * z, 2 * (x * y + x * z + y * z), twin.finish.t60) * twin.finish.correction
    absorption = np.clip(mean * weights[:, None] * np.array(twin.finish.bands), 0.01, 0.98)
    faces = [Face(quad, absorption[i], quad.mean(axis=0) - (low + high) / 2) for i, quad in enumerate(quads[:6])]
    for quad, normal in zip(quads[6:], normals[6:], strict=True):
        half = normal / np.linalg.norm(normal) * OBSTACLE_THICKNESS / 2
        above, below = quad + half, quad - half
        rim = [np.array([above[k - 1], above[k], below[k], below[k - 1]]) for k in range(4)]
        flat = np.full(len(OCTAVE_BANDS), OBSTACLE_ABSORPTION)
        faces += [Face(face, flat, quad.mean(axis=0) - face.mean(axis=0)) for face in (above, below, *rim)]
    return faces


def drawn_twin(twin: Twin, positions: np.ndarray) -> DrawnRoom:
    """A twin with microphones at positions (N, 3) m, as what :func:`~haa_peft.simulation.simulate.simulate` takes."""
    faces = _faces(twin)
    low, high = twin.surfaces.bounds()
    return DrawnRoom(
        plan="box",
        size=high - low,
        is_box=False,
        walls=faces[:6],
        obstacles=faces[6:],
        scattering=SCATTERING,
        facing=twin.facing,
        beam=np.array(SHARPNESS),
        rear=np.array(REAR_LEVEL),
        receiver=twin.loudspeaker,
        positions=positions,
        t60=twin.finish.t60,
        volume=float(np.prod(high - low)),
    )


def simulate_twin(twin: Twin, positions: np.ndarray, name: str, seed: int) -> np.ndarray:
    """RIRs (N, 13230) float32 from the loudspeaker to all positions, direct sound at d / 343 s.

    Parameters
    ----------
    twin : the room.
    positions : (N, 3) m.
    name, seed : draw diffuse tails and noise.
    """
    from scipy.signal import fftconvolve, firwin2, minimum_phase

    chance = seed, zlib.crc32(name.encode())
    rirs = simulate(drawn_twin(twin, positions), chance, LENGTH)
    # minimum_phase halves the decibels of its prototype
    response = minimum_phase(firwin2(2047, RESPONSE_HZ, 10 ** (np.array(RESPONSE_DB) / 10), fs=SAMPLE_RATE))
    rirs = fftconvolve(rirs, response[None], axes=1)[:, :LENGTH]
    noise = np.random.default_rng(chance).standard_normal(rirs.shape)
    return (rirs + NOISE_RMS * noise).astype(np.float32)
