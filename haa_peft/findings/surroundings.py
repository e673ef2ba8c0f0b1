"""Whether a room's planes fit its measurements: a wall that sound passes through, azimuths that count the other way."""

from __future__ import annotations

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.findings.arrival import TOLERANCE_S, Arrivals
from haa_peft.findings.finding import ERROR, Finding, named
from haa_peft.findings.timing import in_sight
from haa_peft.geometry.panorama import render_depth
from haa_peft.geometry.surfaces import Surfaces

THROUGH = 0.2
"""Share of positions that may be heard through a surface: furniture, scans and positions have errors."""
ROUND = 1.0
"""Metres that a way round a surface's free edge is longer, up to which sound bends round it."""
OUTSIDE = 0.05
"""Metres from the room's bounds, within which an edge is not free."""
LEAST_ECHOES, LEAST_GAIN = 8, 0.2
"""Echoes that two readings must have at different times, and bel that they must be clearer in the other one."""
SURE = 3.0
"""Standard errors by which echoes must speak for another reading of the positions."""
ROWS = 64
READINGS = {
    "azimuth": ("azimuths counted the other way round", np.array([1.0, -1.0, 1.0]), None),
    "azimuth from y": ("azimuths counted the other way round, from y", np.array([-1.0, 1.0, 1.0]), None),
    "axes": ("the axes y x z", None, (1, 0, 2)),
}
"""Other readings of positions around the receiver, or of both in the room."""


def check_surroundings(
    arrivals: Arrivals,
    positions: np.ndarray,
    receiver: np.ndarray,
    surfaces: Surfaces,
    arrival: np.ndarray,
) -> list[Finding]:
    """What speaks against the planes of a room, or against positions in it.

    Parameters
    ----------
    arrivals : of the RIRs.
    positions, receiver : (N, 3) and (3,) m.
    surfaces : of the room.
    arrival : (N,) s, when direct sound comes.
    """
    distance = np.linalg.norm(positions - receiver, axis=1)
    straight = arrivals.hit(distance, float(np.median(arrival - distance / SPEED_OF_SOUND)))
    hidden = np.flatnonzero(straight & ~in_sight(surfaces, receiver, positions))
    through = hidden[[_detour(surfaces, receiver, positions[row]) > ROUND for row in hidden]] if len(hidden) else hidden
    if len(through) >= 2 and len(through) > THROUGH * len(positions):
        share = len(through) / len(positions)
        text = f"{named(through, 'position')}: heard straight through a surface of the room ({share:.0%} of all)"
        return [Finding("wall", ERROR, text, "measure the surfaces again", tuple(through.tolist()), {"share": share})]
    return _other_reading(arrivals, positions, receiver, surfaces, arrival)


def _detour(surfaces: Surfaces, receiver: np.ndarray, position: np.ndarray) -> float:
    """Metres that a way round the edges of what stands between is longer than the straight one; inf if there is none.

    There is none round an edge on the room's outside.
    """
    direct = np.linalg.norm(position - receiver)
    low, high = surfaces.bounds()
    longest = 0.0
    for points, triangle in zip(surfaces.points, surfaces.is_triangle, strict=True):
        one = Surfaces(points[None], np.array([triangle]))
        depth = render_depth(one, receiver, (position - receiver) / direct)
        if depth > 0.95 * direct - 0.25:
            continue
        corners = (
            [points[0], points[1], points[2]]
            if triangle
            else [points[0], points[1], points[1] + points[2] - points[0], points[2]]
        )
        share = np.linspace(0, 1, 21)[:, None]
        edges = np.concatenate([a + share * (b - a) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)])
        free = edges[((edges > low + OUTSIDE) & (edges < high - OUTSIDE)).all(axis=1)]
        ways = np.linalg.norm(free - receiver, axis=1) + np.linalg.norm(free - position, axis=1)
        longest = max(longest, float(ways.min() - direct) if len(free) else np.inf)
    return longest


def _other_reading(
    arrivals: Arrivals, positions: np.ndarray, receiver: np.ndarray, surfaces: Surfaces, arrival: np.ndarray
) -> list[Finding]:
    """The reading of the positions whose first echoes are heard, if it is not the one stated."""
    rows = np.unique(np.linspace(0, len(positions) - 1, min(len(positions), ROWS)).round().astype(int))
    lag = arrival - np.linalg.norm(positions - receiver, axis=1) / SPEED_OF_SOUND
    low, high = surfaces.bounds()
    paths, heard = _echoes(arrivals, positions, receiver, surfaces, lag, rows)
    for name, (what, mirror, axes) in READINGS.items():
        if mirror is not None:
            moved, heard_at = receiver + mirror * (positions - receiver), receiver
        else:
            moved, heard_at = positions[:, axes], receiver[list(axes or ())]
        if ((moved < low) | (moved > high)).any() or ((heard_at < low) | (heard_at > high)).any():
            continue
        others, heard_so = _echoes(arrivals, moved, heard_at, surfaces, lag, rows)
        gain = (heard_so - heard)[np.abs(others - paths) > 2 * TOLERANCE_S]
        error = float(gain.std() / np.sqrt(len(gain))) if len(gain) > LEAST_ECHOES else np.inf
        if gain.mean() > max(SURE * error, LEAST_GAIN):
            text = (
                f"echoes off the room's planes come as if positions had {what} (mean rise {gain.mean():.2f} bel more, "
                f"standard error {error:.2f})"
            )
            kind, cure = name.split()[0], "give positions, receiver and room in the same axes"
            cure = "turn the azimuths round (import: --clockwise)" if kind == "azimuth" else cure
            return [Finding(kind, ERROR, text, cure, figures={"gain": float(gain.mean()), "error": error})]
    return []


def _echoes(
    arrivals: Arrivals,
    positions: np.ndarray,
    receiver: np.ndarray,
    surfaces: Surfaces,
    lag: np.ndarray,
    rows: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """When first echoes off the S planes should come, (rows, S) s, and the rise of energy in bel there, (rows, S)."""
    normals = surfaces.normals()
    height = np.einsum("nsc,sc->ns", positions[rows, None] - surfaces.points[None, :, 0], normals)
    images = positions[rows, None] - 2 * height[..., None] * normals
    path = np.linalg.norm(images - receiver, axis=-1) / SPEED_OF_SOUND + lag[rows, None]
    reach = round(TOLERANCE_S * arrivals.rate / 2)
    at = np.rint(path * arrivals.rate).astype(int)[..., None] + np.arange(-reach, reach + 1)
    inside = (at >= 0) & (at < arrivals.rise.shape[1])
    rise = arrivals.rise[rows[:, None, None], np.where(inside, at, 0)].clip(0, 1.5)
    return path, np.where(inside, rise, 0).max(axis=-1)
