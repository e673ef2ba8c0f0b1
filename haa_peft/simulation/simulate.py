"""Simulating drawn rooms: pyroomacoustics' image sources and ray tracing, a late field made of its energies, and edges.

By reciprocity the simulation runs from the receiver to all positions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.simulation.draw import OCTAVE_BANDS, DrawnRoom, Face

ORDER = 3
"""Of image sources. More leave a hole: scattering takes energy off every image, and pyroomacoustics' rays give it back
only behind the last image; at order 8 and scattering 0.3 the level lies 3 dB low at 40 ms, at order 3 within 1 dB."""
RAYS = 3_000
RECEIVER_RADIUS = 0.4
"""Metres in rooms of up to 60 m3, growing as the room does: a fixed one is hit too rarely in large rooms."""
ENERGY_THRESHOLD = 1e-14
"""Below which pyroomacoustics drops what arrives; its 1e-7 drops scattered energy, the more the more rays there are."""
BIN_SECONDS = 0.004
SHARED = (0.03, 0.1)
"""Seconds after the direct sound in which the late field becomes one for all positions."""
SMOOTHED = 5
"""Bins to either side that it is smoothed over."""
SPARE = 640
"""Samples that are computed more than are kept."""
EDGE_POINTS, EDGE_DISTANCE = 9, 0.03
"""Along an edge, where sound may pass round it, and metres from it."""
WAYS = 400
"""Shortest ones that are looked at."""
WALLS = ("west", "east", "south", "north", "floor", "ceiling")


@dataclass(frozen=True)
class Beam:
    """A transducer that pyroomacoustics takes for one of its directivities: a cardioid of its own in every octave band.

    ``facing`` (3,) unit vector; amplitude rear + (1 - rear) ((1 + cos angle) / 2)^sharpness, both (7,).
    """

    facing: np.ndarray
    sharpness: np.ndarray
    rear: np.ndarray
    is_impulse_response = False

    def amplitude(self, directions: np.ndarray) -> np.ndarray:
        """Amplitude towards directions (N, 3), unit vectors, per octave band: (7, N)."""
        rear, sharpness = self.rear[:, None], self.sharpness[:, None]
        return rear + (1 - rear) * ((1 + directions @ self.facing) / 2).clip(0) ** sharpness

    def get_response(self, azimuth: np.ndarray, colatitude: np.ndarray, degrees: bool) -> np.ndarray:
        """For image sources, angles (N,) -> (7, N): against pyroomacoustics' own docstring but as its code needs."""
        import pyroomacoustics as pra

        return self.amplitude(pra.doa.spher2cart(azimuth, colatitude, degrees=degrees).T)

    def sample_rays(self, n_rays: int) -> tuple[np.ndarray, np.ndarray]:
        """For ray tracing: directions (n_rays, 3) and their energies per band (n_rays, 7)."""
        import pyroomacoustics as pra

        rays = pra.doa.fibonacci_spherical_sampling(n_rays).T
        return rays, self.amplitude(rays).T ** 2


def simulate(drawn: DrawnRoom, seed: tuple[int, ...], length: int = RIR_LENGTH) -> np.ndarray:
    """RIRs from every position to the receiver, (P, length) float32 at 22 050 Hz, direct sound at d / 343 s.

    Raises ``InputError`` if pyroomacoustics gives something silent or not finite.
    """
    computed_length = length + SPARE
    room = _box(drawn) if drawn.is_box else polyhedron([*drawn.walls, *drawn.obstacles], drawn.scattering, ORDER)
    radius = RECEIVER_RADIUS * max(1.0, drawn.volume / 60) ** (1 / 3)
    beam = None if drawn.facing is None else Beam(drawn.facing, drawn.beam, drawn.rear)
    rays = {"n_rays": RAYS, "receiver_radius": radius, "time_thres": computed_length / SAMPLE_RATE}
    rays |= {"energy_thres": ENERGY_THRESHOLD, "hist_bin_size": BIN_SECONDS}
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    place(room, drawn.receiver, beam, drawn.positions, start, rays)
    room.image_source_model()
    room.ray_tracing()
    surfaces = drawn.surfaces
    distance = np.linalg.norm(drawn.positions - drawn.receiver, axis=1)
    inside = np.array([share_inside(surfaces, position, radius) for position in drawn.positions])
    energy = share_late_energy(traced_energy(room, computed_length) / inside[:, None, None], distance)
    room.simulator_state["rt_needed"] = False  # its images alone from here on
    room.compute_rir()
    responses = band_responses(room.octave_bands, computed_length)
    rirs = late_field(energy, distance, room, responses, np.random.default_rng(seed))
    rirs += computed(room, computed_length)
    for i in out_of_sight(room):
        rirs[i] += round_the_edges(drawn, surfaces, drawn.positions[i], responses)
    rirs *= fade_in(distance, computed_length)
    if not np.isfinite(rirs).all() or not (np.abs(rirs[:, :length]).max(axis=1) > 0).all():
        raise InputError(f"pyroomacoustics gave silent or non-finite RIRs for a room of {drawn.size} m, seed {seed}")
    return rirs[:, :length].astype(np.float32)


def place(
    room: Any, source: np.ndarray, beam: Beam | None, positions: np.ndarray, seed: int, rays: dict[str, float]
) -> None:
    """Put a source and microphones into a room of pyroomacoustics.

    Parameters
    ----------
    room : which is changed.
    source, positions : (3,) and (P, 3) m.
    beam : of the source, None if it is omnidirectional.
    seed : of the random numbers of ray tracing.
    rays : the arguments of ``set_ray_tracing``.
    """
    import pyroomacoustics as pra

    pra.constants.set("num_threads", 1)
    pra.random.seed(seed)
    room.set_ray_tracing(**rays)
    room.add(pra.soundsource.SoundSource(source))
    if beam is not None:
        room.sources[0].directivity = beam
    room.add_microphone_array(positions.T)


def computed(room: Any, length: int) -> np.ndarray:
    """What a room of pyroomacoustics computed, (P, length), direct sound at d / 343 s."""
    import pyroomacoustics as pra

    # pyroomacoustics delays every RIR by half its fractional-delay filter
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((len(room.rir), length))
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + length]
        row[: len(kept)] = kept
    return rirs


def out_of_sight(room: Any) -> np.ndarray:
    """Indices (M,) of the microphones that do not see the source."""
    return np.flatnonzero(~room.visibility[0][:, room.sources[0].orders == 0].any(axis=1))


def fade_in(distance: np.ndarray, length: int) -> np.ndarray:
    """Weights (P, length) at distances (P,) m: octave bands are of zero phase and ring before the direct sound.

    What does fades in over 35 samples.
    """
    arrival = distance / SPEED_OF_SOUND * SAMPLE_RATE
    return ((np.arange(length) - arrival[:, None] + 40) / 35).clip(0, 1)


def traced_energy(room: Any, length: int) -> np.ndarray:
    """What ray tracing gave every position per octave band and bin of so many samples, (P, 7, bins)."""
    bins = length // room.rt_args["hist_bin_size_samples"] + 2
    energy = np.zeros((len(room.rt_histograms), len(OCTAVE_BANDS), bins))
    for row, ((histograms,),) in zip(energy, room.rt_histograms, strict=True):
        kept = histograms[:, :bins]
        row[:, : kept.shape[1]] = kept
    return energy


def share_inside(surfaces: Surfaces, position: np.ndarray, radius: float) -> float:
    """Share of the rays of a diffuse field through a ball at (3,) m that are counted: those closest to its centre.

    Half of them and more are lost to the walls of a corner. The closest points of isotropic lines have uniform
    directions from the centre and uniform squared distances, so what is left is the mean squared depth, over the
    ball's radius; a plane at distance x radius leaves 1/2 + x - x^2 / 2.
    """
    depth = render_depth(surfaces, position, directions(16, 32))
    area = np.cos(np.arcsin(directions(16, 32)[..., 2]))
    return float(np.average((depth / radius).clip(max=1) ** 2, weights=area))


def share_late_energy(energy: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Give all positions of a room one late field, in place of what few rays hit each of them, in steps and spikes.

    Per band, the traced ``energy`` (P, bands, bins) turns over ``SHARED`` seconds after the direct sound (at
    ``distance`` (P,) m) into the mean over positions, smoothed over time, at the level that the position has in that
    span.
    """
    bins = energy.shape[-1]
    mean = np.sort(energy, axis=0)[: max(1, len(energy) - 1)].mean(axis=0)  # one stray ray may carry too much
    kernel = np.hanning(2 * SMOOTHED + 3)[1:-1]
    weight = np.convolve(np.ones(bins), kernel, "same")
    smooth = np.stack([np.convolve(band, kernel, "same") / weight for band in mean])
    time = (np.arange(bins) + 0.5) * BIN_SECONDS
    shared = np.empty_like(energy)
    for row, own, start in zip(shared, energy, distance / SPEED_OF_SOUND, strict=True):
        turn = ((time - start - SHARED[0]) / (SHARED[1] - SHARED[0])).clip(0, 1)
        span = (time >= start) & (turn < 1)
        level = np.clip(own[:, span].sum() / max(mean[:, span].sum(), 1e-30), 0.25, 4)
        # the field's level settles to the room's within twice the span
        settled = level ** ((start + 2 * SHARED[1] - time) / SHARED[1]).clip(0, 1)
        row[:] = (1 - turn) * own + turn * settled * smooth
    return shared


def late_field(
    energy: np.ndarray, distance: np.ndarray, room: Any, responses: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise (P, length) whose energy per octave band follows what was traced.

    In place of pyroomacoustics' own, whose few pulses make clarity differ by half a decibel between two runs.

    Parameters
    ----------
    energy : (P, 7, bins).
    distance : (P,) m.
    room : of pyroomacoustics.
    responses : of the octave bands, (7, length / 2 + 1).
    rng : draws the noise.
    """
    length = 2 * (responses.shape[1] - 1)
    samples = room.rt_args["hist_bin_size_samples"]
    spectra = np.fft.rfft(rng.standard_normal((len(energy), length)) / np.sqrt(samples))
    time = np.arange(length)
    centres = (np.arange(energy.shape[-1]) + 0.5) * samples
    begun = time >= distance[:, None] / SPEED_OF_SOUND * SAMPLE_RATE
    field = np.zeros((len(energy), length))
    for band, response, loss in zip(energy.swapaxes(0, 1), responses, room.air_absorption, strict=True):
        level = np.sqrt([np.interp(time, centres, row) for row in band])
        air = np.exp(-0.5 * loss * time / SAMPLE_RATE * SPEED_OF_SOUND)
        field += np.fft.irfft(spectra * response, length) * level * air
    return field * begun


def band_responses(octave_bands: Any, length: int) -> np.ndarray:
    """Magnitudes (7, length / 2 + 1) of pyroomacoustics' octave bands, which add up to 1."""
    impulse = np.zeros(length)
    impulse[length // 2] = 1
    return np.abs([np.fft.rfft(octave_bands.analysis(impulse, band=b)) for b in range(len(OCTAVE_BANDS))])


def round_the_edges(drawn: DrawnRoom, surfaces: Surfaces, position: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Direct sound (length,) at a position that does not see the receiver: the shortest way round one or two edges.

    Parameters
    ----------
    drawn, surfaces : the room.
    position : (3,) m.
    responses : of the octave bands, (7, length / 2 + 1).

    Notes
    -----
    What passes is 1 / (3 + 20 N) of the energy, N = 2 detour / wavelength (ISO 9613-2, equation 14). Silent where no
    such way is free.
    """
    samples = 2 * (responses.shape[1] - 1)
    points = edge_points(drawn)
    there, back = points - drawn.receiver, points - position
    first = np.flatnonzero(_is_free(surfaces, drawn.receiver, there))
    last = np.flatnonzero(_is_free(surfaces, position, back))
    first_length, last_length = np.linalg.norm(there[first], axis=1), np.linalg.norm(back[last], axis=1)
    between = np.linalg.norm(points[first][:, None] - points[last], axis=-1)
    lengths = first_length[:, None] + between + last_length
    for i, j in zip(*np.unravel_index(np.argsort(lengths, axis=None)[:WAYS], lengths.shape), strict=True):
        start, end = points[first[i]], points[last[j]]
        if first[i] == last[j] or _is_free(surfaces, start, (end - start)[None])[0]:
            break
    else:
        return np.zeros(samples)
    length = lengths[i, j]
    detour = length - np.linalg.norm(position - drawn.receiver)
    gain = 1 / np.sqrt(3 + 20 * 2 * detour * np.array(OCTAVE_BANDS) / SPEED_OF_SOUND) / length
    if drawn.facing is not None:
        way = there[first[i]][None]
        gain *= Beam(drawn.facing, drawn.beam, drawn.rear).amplitude(way / np.linalg.norm(way))[:, 0]
    spectrum = gain @ responses
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(samples) * length / SPEED_OF_SOUND * SAMPLE_RATE)
    return np.fft.irfft(spectrum * delay, samples)


def edge_points(drawn: DrawnRoom) -> np.ndarray:
    """Points (N, 3) in the air 3 cm off the edges that sound can bend round: of obstacles, and inward corners."""
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(0, len(drawn.obstacles), 6):
        corners = np.concatenate([face.corners for face in drawn.obstacles[i : i + 6]])
        sides = corners[[1, 3]] - corners[0]
        axes = np.array([*sides, np.cross(*sides)])
        axes /= np.linalg.norm(axes, axis=1)[:, None]
        own = corners @ axes.T
        for face in _solid(own.min(axis=0) - EDGE_DISTANCE, own.max(axis=0) + EDGE_DISTANCE) @ axes:
            face[:, 2] = face[:, 2].clip(0)
            edges += zip(face, np.roll(face, -1, axis=0), strict=True)
    ceiling = drawn.walls[-1].corners  # counter-clockwise from above
    before, after = np.roll(ceiling, 1, axis=0) - ceiling, np.roll(ceiling, -1, axis=0) - ceiling
    for corner, a, b in zip(ceiling, before[:, :2], after[:, :2], strict=True):
        if b[0] * a[1] - b[1] * a[0] < 0:
            into = -(a / np.linalg.norm(a) + b / np.linalg.norm(b))
            top = corner + EDGE_DISTANCE * np.array([*into / np.linalg.norm(into), -1])
            edges.append((top, top * [1, 1, 0]))
    if not edges:
        return np.zeros((0, 3))
    starts, ends = (np.array(part) for part in zip(*edges, strict=True))
    along = np.linspace(0, 1, EDGE_POINTS)[:, None, None]
    return np.unique((starts + along * (ends - starts)).reshape(-1, 3).round(6), axis=0)


def _solid(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bottom, top and two sides of a box as faces (4, 4, 3) whose rims hold all edges."""
    x, y = np.array([low[0], high[0], high[0], low[0]]), np.array([low[1], low[1], high[1], high[1]])
    rims = [np.column_stack([x, y, np.full(4, z)]) for z in (low[2], high[2])]
    sides = [np.array([rims[0][i], rims[0][i + 1], rims[1][i + 1], rims[1][i]]) for i in (0, 2)]
    return np.array([*rims, *sides])


def _is_free(surfaces: Surfaces, origin: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Which ways (N, 3) from a point end before a surface."""
    reach = np.linalg.norm(ways, axis=1)
    return render_depth(surfaces, origin, ways / np.maximum(reach, 1e-9)[:, None]) > reach


def _box(drawn: DrawnRoom) -> Any:
    """A box without obstacles, which pyroomacoustics traces about twice as fast as the same walls one by one."""
    import pyroomacoustics as pra

    materials = {
        name: pra.Material({"coeffs": list(wall.absorption), "center_freqs": list(OCTAVE_BANDS)}, drawn.scattering)
        for name, wall in zip(WALLS, drawn.walls, strict=True)
    }
    return pra.ShoeBox(
        list(drawn.size),
        fs=SAMPLE_RATE,
        materials=materials,
        max_order=ORDER,
        ray_tracing=True,
        air_absorption=True,
    )


def polyhedron(faces: Sequence[Face], scattering: float, order: int) -> Any:
    """A room of pyroomacoustics from walls and obstacles, with image sources to an order.

    It wants all normals to point out of the air.
    """
    import pyroomacoustics as pra

    scatters = np.full(len(OCTAVE_BANDS), scattering)
    walls = []
    for face in faces:
        normal = np.cross(face.corners[1:-1] - face.corners[0], face.corners[2:] - face.corners[0]).sum(axis=0)
        corners = face.corners if normal @ face.outwards > 0 else face.corners[::-1]
        walls.append(pra.wall_factory(corners.T, face.absorption, scatters))
    return pra.Room(walls, fs=SAMPLE_RATE, max_order=order, ray_tracing=True, air_absorption=True)
