"""Simulated shoebox rooms: what the backbone is pretrained on.

One omnidirectional receiver and several omnidirectional sources per room, image sources to order 8 and ray
tracing beyond (pyroomacoustics). By reciprocity the simulation runs from the receiver to all sources at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError

SOURCES_PER_ROOM = 16
OCTAVE_BANDS = (125, 250, 500, 1000, 2000, 4000, 8000)
WALLS = ("west", "east", "south", "north", "floor", "ceiling")
IMAGE_ORDER = 8
RAYS = 3_000
RECEIVER_RADIUS = 0.4
WALL_DISTANCE = 0.25


@dataclass(frozen=True)
class ShoeboxRoom:
    """A drawn room, before it is simulated.

    ``size`` (3,) m; ``absorption`` (6 walls in the order of ``WALLS``, 7 octave bands) energy coefficients;
    ``scattering`` one coefficient; ``receiver`` (3,) and ``positions`` (P, 3) m in room coordinates.
    """

    size: np.ndarray
    absorption: np.ndarray
    scattering: float
    receiver: np.ndarray
    positions: np.ndarray


def eyring_absorption(size: np.ndarray, t60: float) -> float:
    """Mean absorption that gives a shoebox of ``size`` (m) the decay time ``t60`` (s), Eyring's equation."""
    volume = float(np.prod(size))
    area = 2 * float(size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    return 1 - float(np.exp(-0.161 * volume / (area * t60)))


def draw_room(seed: int, index: int, n_positions: int = SOURCES_PER_ROOM) -> ShoeboxRoom:
    """Draw room ``index`` of the corpus ``seed``: 15-2000 m3, 0.12-2.2 s, uneven absorption, corridors too."""
    rng = np.random.default_rng((seed, index))
    volume = np.exp(rng.uniform(np.log(15), np.log(2000)))
    height = min(rng.uniform(2.2, 3.6) * max(1.0, (volume / 200) ** 0.25), 7.0)
    aspect = np.exp(rng.uniform(0, np.log(12 if rng.random() < 0.15 else 2.5)))
    width = np.sqrt(volume / height / aspect)
    plan = np.array([width * aspect, width])
    size = np.array([*rng.permutation(np.maximum(plan, 1.4)), height])

    mean_absorption = eyring_absorption(size, np.exp(rng.uniform(np.log(0.12), np.log(2.2))))
    per_wall = np.exp(rng.normal(0, rng.uniform(0, 1.2), (6, 1)))
    tilt = rng.normal(0, 0.15, (6, 1)) * np.linspace(-3, 3, 7) + rng.normal(0, 0.15, (6, 7))
    absorption = np.clip(mean_absorption * per_wall / per_wall.mean() * np.exp(tilt), 0.01, 0.97)

    low, high = np.full(3, WALL_DISTANCE), size - WALL_DISTANCE
    high[2] = min(high[2], 2.3)
    receiver = rng.uniform(low, high)
    reach = rng.uniform(2.5, 6) if rng.random() < 0.3 else np.inf
    positions: list[np.ndarray] = []
    while len(positions) < n_positions:
        position = rng.uniform(np.maximum(low, receiver - reach), np.minimum(high, receiver + reach))
        if np.linalg.norm(position - receiver) >= 0.4:
            positions.append(position)
    return ShoeboxRoom(size, absorption, float(rng.uniform(0.05, 0.4)), receiver, np.array(positions))


def simulate(room: ShoeboxRoom, seed: int) -> np.ndarray:
    """RIRs from every position to the receiver, (P, 9600) float32 at 22 050 Hz, direct sound at d / 343 s."""
    import pyroomacoustics as pra

    pra.constants.set("num_threads", 1)
    pra.random.seed(seed)
    materials = {
        wall: pra.Material({"coeffs": list(coefficients), "center_freqs": list(OCTAVE_BANDS)}, room.scattering)
        for wall, coefficients in zip(WALLS, room.absorption, strict=True)
    }
    shoebox = pra.ShoeBox(
        list(room.size),
        fs=SAMPLE_RATE,
        materials=materials,
        max_order=IMAGE_ORDER,
        ray_tracing=True,
        air_absorption=True,
    )
    shoebox.set_ray_tracing(
        n_rays=RAYS,
        receiver_radius=RECEIVER_RADIUS,
        time_thres=RIR_LENGTH / SAMPLE_RATE + 0.05,
        hist_bin_size=0.004,
    )
    shoebox.add_source(room.receiver)
    shoebox.add_microphone_array(room.positions.T)
    shoebox.compute_rir()
    # pyroomacoustics delays every RIR by half its fractional-delay filter
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((len(room.positions), RIR_LENGTH), dtype=np.float32)
    for row, (rir,) in zip(rirs, shoebox.rir, strict=True):
        kept = rir[lead : lead + RIR_LENGTH]
        row[: len(kept)] = kept
    if not np.isfinite(rirs).all() or not (np.abs(rirs).max(axis=1) > 0).all():
        raise InputError(f"pyroomacoustics gave silent or non-finite RIRs for a room of {room.size} m, seed {seed}")
    return rirs
