"""Simulated twins of HAA's rooms, made on demand and kept: ``classroom-twin/base`` and its like.

From HAA's facts: walls, tables, panels, loudspeaker positions. HAA measured the classroom in one state only, so
the twin's turned and moved loudspeaker and its panel (as high as the dampened room's, twice as wide) are ours.
Simulated with pyroomacoustics: image sources to order 4, ray tracing beyond, tables and panels as plates 2 cm
thick. New to a backbone that was pretrained on empty shoeboxes: a loudspeaker that faces -y (+x in ``rotation``)
and narrows towards high frequencies, its frequency response, white measurement noise, obstacles. The direct
sound bends round the edges of a panel; reflections don't, and their shadows are sharp. Absorption is set so
that decay times come out near HAA's. Not simulated: room modes, furniture other than tables, people.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import uuid
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.haa import haa_facts, room_and_configuration
from haa_peft.rooms.simulation import OCTAVE_BANDS, eyring_absorption

VERSION = 1
"""Part of the cache's folder names; raise it when a change here gives other RIRs."""
LENGTH = 13_230
"""Samples of a stored RIR at 22 050 Hz (0.6 s)."""
FEWEST_POSITIONS = 14
FILES = ("RIRs.npy", "xyzs.npy", "room.json")
CONFIGURATIONS = ("base", "rotation", "translation", "panel", "panel1")
CLASSROOM_TRANSLATION = (1.8, 3.0, 1.2294)
CLASSROOM_PANEL = ((2.6, 1.9, 1.855), (2.6, 1.9, 0.145), (4.53, 1.9, 1.855))
HEIGHTS = (0.9, 1.3, 1.7)
"""Metres; every microphone stand carries one microphone at each, all above the tables."""
WALL_DISTANCE, LOUDSPEAKER_DISTANCE = 0.3, 0.5
IMAGE_ORDER, RAYS, RECEIVER_RADIUS = 4, 3_000, 0.4
SCATTERING = 0.15
OBSTACLE_ABSORPTION, OBSTACLE_THICKNESS = 0.1, 0.02
NOISE_RMS = 10 ** (-90 / 20)
"""Re the direct sound 1 m in front of the loudspeaker; 22 050 Hz wide, the same at every position."""
RESPONSE_HZ = (0, 40, 80, 110, 180, 350, 700, 1200, 2000, 3200, 5000, 8000, SAMPLE_RATE / 2)
RESPONSE_DB = (-50, -30, -8, -1, 2, 0, -1.5, 1, -1, 1.5, 0, -2, -5)
REAR_LEVEL = (0.85, 0.7, 0.5, 0.32, 0.2, 0.12, 0.08)
SHARPNESS = (1, 1, 1, 1.2, 1.6, 2.2, 3)
"""The loudspeaker's amplitude per octave band: rear + (1 - rear) ((1 + cos angle) / 2)^sharpness."""


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


FINISHES = {
    "classroom": Finish(0.65, 0.86, (0.7, 0.85, 1, 1.05, 1.05, 1.05, 1.05), (0.8, 0.8, 1.2, 1.4, 0.7, 0.7)),
    "dampened": Finish(0.15, 1.12, (0.8, 0.9, 1, 1.05, 1.05, 1.05, 1.05), (1, 1, 0.9, 1, 1.05, 1.05)),
    "hallway": Finish(0.95, 0.58, (0.9, 1, 1, 1, 1.05, 1.1, 1.2), (1, 1, 1.2, 1.4, 0.8, 0.8)),
}


@dataclass(frozen=True)
class Twin:
    """One configuration: six walls and then obstacles (a panel last), the loudspeaker's place (m) and direction."""

    finish: Finish
    surfaces: Surfaces
    loudspeaker: np.ndarray
    facing: np.ndarray


@cache
def _twins() -> dict[str, Twin]:
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
    return sorted(_twins())


def is_twin_name(name: str) -> bool:
    """Whether ``name`` is one of :func:`twin_names`."""
    return name in _twins()


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
    target = (folder or _cache_folder()) / f"{name}-seed{seed}-n{n_positions}-v{VERSION}"
    if _is_complete(target, n_positions):
        return target
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        print(f"simulating {name} ({n_positions} positions, some seconds, once): {target}", file=sys.stderr)
        _write(temporary, name, seed, n_positions)
        _move(temporary, target, n_positions)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); set HAA_PEFT_CACHE to a folder that can be"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _cache_folder() -> Path:
    import pooch

    return Path(os.environ.get("HAA_PEFT_CACHE") or pooch.os_cache("haa_peft")).expanduser() / "twins"


def _is_complete(target: Path, n_positions: int) -> bool:
    try:
        json.loads((target / FILES[2]).read_text(encoding="utf-8"))
        shapes = [np.load(target / file, mmap_mode="r").shape for file in FILES[:2]]
    except (OSError, ValueError, EOFError):
        return False
    return shapes == [(n_positions, LENGTH), (n_positions, 3)]


def _write(folder: Path, name: str, seed: int, n_positions: int) -> None:
    import pyroomacoustics as pra

    twin = _twins()[name]
    room, configuration = name.split("/")
    positions = draw_positions(room, seed, n_positions)
    description = {
        "room": room,
        "configuration": configuration,
        "sample_rate": SAMPLE_RATE,
        "receiver_xyz": twin.loudspeaker.tolist(),
        "surfaces": twin.surfaces.to_json(),
        "source": f"simulated from the facts of HAA's rooms by haa_peft.rooms.twins, version {VERSION}, seed {seed}, "
        f"with pyroomacoustics {pra.__version__}",
        "licence": "Apache-2.0",
        "description": "receiver_xyz is the loudspeaker, xyzs.npy the microphones (reciprocity, as for HAA)",
        "loudspeaker_facing": twin.facing.tolist(),
    }
    np.save(folder / FILES[0], _simulate(twin, positions, name, seed))
    np.save(folder / FILES[1], positions)
    (folder / FILES[2]).write_text(json.dumps(description, indent=1), encoding="utf-8")


def _move(temporary: Path, target: Path, n_positions: int) -> None:
    """Rename, unless another process was first; a damaged twin is mended file by file, its content being the same."""
    try:
        temporary.rename(target)
    except OSError:
        if not _is_complete(target, n_positions):
            for file in FILES:
                (temporary / file).replace(target / file)


def draw_positions(room: str, seed: int, count: int) -> np.ndarray:
    """Microphone positions (count, 3) m for all configurations of a room: stands spread over its plan.

    Clear of walls and obstacles by 0.3 m and of every configuration's loudspeaker by 0.5 m.
    """
    twins = [twin for name, twin in _twins().items() if name.startswith(f"{room}/")]
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


@dataclass(frozen=True)
class Loudspeaker:
    """A source that pyroomacoustics takes for one of its directivities; ``facing`` (3,) is a unit vector."""

    facing: np.ndarray
    is_impulse_response = False

    def amplitude(self, directions: np.ndarray) -> np.ndarray:
        """Amplitude towards directions (N, 3), unit vectors, per octave band: (7, N)."""
        rear, sharpness = np.array(REAR_LEVEL)[:, None], np.array(SHARPNESS)[:, None]
        return rear + (1 - rear) * ((1 + directions @ self.facing) / 2).clip(0) ** sharpness

    def get_response(self, azimuth: np.ndarray, colatitude: np.ndarray, degrees: bool) -> np.ndarray:
        """For image sources; bands come first, against pyroomacoustics' own docstring but as its code needs."""
        import pyroomacoustics as pra

        return self.amplitude(pra.doa.spher2cart(azimuth, colatitude, degrees=degrees).T)

    def sample_rays(self, n_rays: int) -> tuple[np.ndarray, np.ndarray]:
        """For ray tracing: directions (n_rays, 3) and their energies per band (n_rays, 7)."""
        import pyroomacoustics as pra

        rays = pra.doa.fibonacci_spherical_sampling(n_rays).T
        return rays, self.amplitude(rays).T ** 2


def _corners(points: np.ndarray) -> np.ndarray:
    """The four corners (4, 3) of a parallelogram (3 points, 3), in order around it."""
    return np.array([points[0], points[1], points[1] + points[2] - points[0], points[2]])


def _walls(twin: Twin) -> list:
    """Walls and obstacles for pyroomacoustics, whose normals must all point out of the air."""
    import pyroomacoustics as pra

    low, high = twin.surfaces.bounds()
    quads = [_corners(points) for points in twin.surfaces.points]
    normals = [np.cross(quad[1] - quad[0], quad[3] - quad[0]) for quad in quads]
    weights = np.array(twin.finish.walls)
    weights = weights / np.average(weights, weights=np.linalg.norm(normals[:6], axis=1))
    mean = eyring_absorption(high - low, twin.finish.t60) * twin.finish.correction
    absorption = np.clip(mean * weights[:, None] * np.array(twin.finish.bands), 0.01, 0.98)
    # face, its absorption, and a vector out of the air
    faces = [(quad, absorption[i], quad.mean(axis=0) - (low + high) / 2) for i, quad in enumerate(quads[:6])]
    for quad, normal in zip(quads[6:], normals[6:], strict=True):
        half = normal / np.linalg.norm(normal) * OBSTACLE_THICKNESS / 2
        above, below = quad + half, quad - half
        rim = [np.array([above[k - 1], above[k], below[k], below[k - 1]]) for k in range(4)]
        flat = np.full(len(OCTAVE_BANDS), OBSTACLE_ABSORPTION)
        faces += [(face, flat, quad.mean(axis=0) - face.mean(axis=0)) for face in (above, below, *rim)]
    scattering = np.full(len(OCTAVE_BANDS), SCATTERING)
    walls = []
    for face, coefficients, outwards in faces:
        is_right = np.cross(face[1] - face[0], face[3] - face[0]) @ outwards > 0
        walls.append(pra.wall_factory((face if is_right else face[::-1]).T, coefficients, scattering))
    return walls


def _simulate(twin: Twin, positions: np.ndarray, name: str, seed: int) -> np.ndarray:
    """RIRs (N, 13230) float32 from the loudspeaker to all positions, direct sound at d / 343 s."""
    import pyroomacoustics as pra
    from scipy.signal import fftconvolve, firwin2, minimum_phase

    pra.constants.set("num_threads", 1)
    pra.random.seed(seed)
    room = pra.Room(_walls(twin), fs=SAMPLE_RATE, max_order=IMAGE_ORDER, ray_tracing=True, air_absorption=True)
    room.set_ray_tracing(n_rays=RAYS, receiver_radius=RECEIVER_RADIUS, time_thres=LENGTH / SAMPLE_RATE)
    source = pra.soundsource.SoundSource(twin.loudspeaker)
    source.directivity = Loudspeaker(twin.facing)
    room.add(source)
    room.add_microphone_array(positions.T)
    room.compute_rir()
    # pyroomacoustics delays every RIR by half its fractional-delay filter
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((len(positions), LENGTH))
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + LENGTH]
        row[: len(kept)] = kept
    # its octave bands are of zero phase: what rings before the direct sound fades in over 35 samples
    arrival = np.linalg.norm(positions - twin.loudspeaker, axis=1) / SPEED_OF_SOUND * SAMPLE_RATE
    rirs *= ((np.arange(LENGTH) - arrival[:, None] + 40) / 35).clip(0, 1)
    direct_is_seen = room.visibility[0][:, source.orders == 0].any(axis=1)
    for i in np.flatnonzero(~direct_is_seen):
        rirs[i] += _round_the_edges(twin, positions[i])
    # minimum_phase halves the decibels of its prototype
    response = minimum_phase(firwin2(2047, RESPONSE_HZ, 10 ** (np.array(RESPONSE_DB) / 10), fs=SAMPLE_RATE))
    rirs = fftconvolve(rirs, response[None], axes=1)[:, :LENGTH]
    noise = np.random.default_rng((seed, zlib.crc32(name.encode()))).standard_normal(rirs.shape)
    return (rirs + NOISE_RMS * noise).astype(np.float32)


def _round_the_edges(twin: Twin, position: np.ndarray) -> np.ndarray:
    """Direct sound (13230,) at a position behind the panel: the shortest way round each of its four edges.

    An edge lets through 1 / (3 + 20 N) of the energy, N = 2 detour / wavelength (ISO 9613-2, equation 14).
    """
    corners = _corners(twin.surfaces.points[-1])
    frequencies = np.fft.rfftfreq(2 * LENGTH, 1 / SAMPLE_RATE)
    spectrum = np.zeros(len(frequencies), dtype=complex)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ways = start + np.linspace(0, 1, 101)[:, None] * (end - start) - twin.loudspeaker
        onward = position - twin.loudspeaker - ways
        lengths = np.linalg.norm(ways, axis=1) + np.linalg.norm(onward, axis=1)
        length, way = lengths.min(), ways[lengths.argmin()]
        bands = Loudspeaker(twin.facing).amplitude(way[None] / np.linalg.norm(way))[:, 0]
        number = 2 * (length - np.linalg.norm(position - twin.loudspeaker)) * frequencies / SPEED_OF_SOUND
        gain = np.interp(frequencies, OCTAVE_BANDS, bands) / np.sqrt(3 + 20 * number) / length
        spectrum += gain * np.exp(-2j * np.pi * frequencies * length / SPEED_OF_SOUND)
    return np.fft.irfft(spectrum)[:LENGTH]
