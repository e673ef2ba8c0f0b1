"""Simulating drawn rooms with pyroomacoustics: image sources, and ray tracing beyond.

By reciprocity the simulation runs from the receiver to all positions at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.rooms.drawing import OCTAVE_BANDS, DrawnRoom

ORDER = 3
"""Of image sources. More leave a hole: scattering takes energy off every image, and pyroomacoustics' rays give it back
only behind the last image; at order 8 and scattering 0.3 the level lies 3 dB low at 40 ms, at order 3 within 1 dB."""
RAYS = 3_000
RECEIVER_RADIUS = 0.4
BIN_SECONDS = 0.004
SHARED = (0.03, 0.1)
"""Seconds after the direct sound in which the late field becomes one for all positions."""
SMOOTHED = 5
"""Bins to either side that it is smoothed over."""
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
        """For image sources; bands come first, against pyroomacoustics' own docstring but as its code needs."""
        import pyroomacoustics as pra

        return self.amplitude(pra.doa.spher2cart(azimuth, colatitude, degrees=degrees).T)

    def sample_rays(self, n_rays: int) -> tuple[np.ndarray, np.ndarray]:
        """For ray tracing: directions (n_rays, 3) and their energies per band (n_rays, 7)."""
        import pyroomacoustics as pra

        rays = pra.doa.fibonacci_spherical_sampling(n_rays).T
        return rays, self.amplitude(rays).T ** 2


def simulate(drawn: DrawnRoom, seed: tuple[int, ...]) -> np.ndarray:
    """RIRs from every position to the receiver, (P, 9600) float32 at 22 050 Hz, direct sound at d / 343 s."""
    import pyroomacoustics as pra

    pra.constants.set("num_threads", 1)
    pra.random.seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    room = _box(drawn) if drawn.is_box else _polyhedron(drawn)
    room.set_ray_tracing(
        n_rays=RAYS,
        receiver_radius=RECEIVER_RADIUS,
        time_thres=RIR_LENGTH / SAMPLE_RATE + 0.05,
        hist_bin_size=BIN_SECONDS,
    )
    source = pra.soundsource.SoundSource(drawn.receiver)
    if drawn.facing is not None:
        source.directivity = Beam(drawn.facing, drawn.beam, drawn.rear)
    room.add(source)
    room.add_microphone_array(drawn.positions.T)
    room.image_source_model()
    room.ray_tracing()
    share_late_energy(room, np.linalg.norm(drawn.positions - drawn.receiver, axis=1))
    room.compute_rir()
    # pyroomacoustics delays every RIR by half its fractional-delay filter
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((len(drawn.positions), RIR_LENGTH), dtype=np.float32)
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + RIR_LENGTH]
        row[: len(kept)] = kept
    # its octave bands are of zero phase: what rings before the direct sound fades in over 35 samples
    arrival = np.linalg.norm(drawn.positions - drawn.receiver, axis=1) / 343 * SAMPLE_RATE
    rirs *= ((np.arange(RIR_LENGTH) - arrival[:, None] + 40) / 35).clip(0, 1)
    if not np.isfinite(rirs).all() or not (np.abs(rirs).max(axis=1) > 0).all():
        raise InputError(f"pyroomacoustics gave silent or non-finite RIRs for a room of {drawn.size} m, seed {seed}")
    return rirs


def share_late_energy(room: Any, distance: np.ndarray) -> None:
    """Give all positions of a room one late field, in place of what few rays hit each of them, in steps and spikes.

    Per band, the traced energy turns over ``SHARED`` seconds after the direct sound (at ``distance`` (P,) m) into the
    mean over positions, smoothed over time, at the level that the position has in that span.
    """
    traced = [np.array(histograms[0][0], dtype=np.float64) for histograms in room.rt_histograms]
    bins = min(histogram.shape[-1] for histogram in traced)
    energy = np.stack([histogram[:, :bins] for histogram in traced])  # (P, bands, bins)
    mean = np.sort(energy, axis=0)[: max(1, len(energy) - 1)].mean(axis=0)  # one stray ray may carry too much
    kernel = np.hanning(2 * SMOOTHED + 3)[1:-1]
    weight = np.convolve(np.ones(bins), kernel, "same")
    smooth = np.stack([np.convolve(band, kernel, "same") / weight for band in mean])
    time = (np.arange(bins) + 0.5) * BIN_SECONDS
    for histogram, own, start in zip(traced, energy, distance / 343, strict=True):
        turn = ((time - start - SHARED[0]) / (SHARED[1] - SHARED[0])).clip(0, 1)
        span = (time >= start) & (turn < 1)
        level = np.clip(own[:, span].sum() / max(mean[:, span].sum(), 1e-30), 0.25, 4)
        # the field's level settles to the room's within twice the span
        settled = level ** ((start + 2 * SHARED[1] - time) / SHARED[1]).clip(0, 1)
        histogram[:, :bins] = (1 - turn) * own + turn * settled * smooth
    for histograms, histogram in zip(room.rt_histograms, traced, strict=True):
        histograms[0][0] = histogram.astype(histograms[0][0].dtype)


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


def _polyhedron(drawn: DrawnRoom) -> Any:
    """Walls and obstacles, whose normals must all point out of the air."""
    import pyroomacoustics as pra

    scattering = np.full(len(OCTAVE_BANDS), drawn.scattering)
    walls = []
    for face in (*drawn.walls, *drawn.obstacles):
        normal = np.cross(face.corners[1:-1] - face.corners[0], face.corners[2:] - face.corners[0]).sum(axis=0)
        corners = face.corners if normal @ face.outwards > 0 else face.corners[::-1]
        walls.append(pra.wall_factory(corners.T, face.absorption, scattering))
    return pra.Room(walls, fs=SAMPLE_RATE, max_order=ORDER, ray_tracing=True, air_absorption=True)
