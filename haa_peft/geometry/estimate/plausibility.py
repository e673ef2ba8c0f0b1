"""Whether echoes speak for given surfaces or against them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from haa_peft.geometry.estimate.echoes import EchoEvidence, echo_evidence
from haa_peft.geometry.estimate.shoebox import WALLS, ShoeboxEstimate
from haa_peft.geometry.surfaces import Surfaces

TOLERANCE = 0.1
"""Metres that a surface may be off and still count as heard where it is."""
AGREEMENT = 0.25
"""Metres between a wall that is heard and the nearest surface, more than which is a contradiction."""
COMPARED = 3.0
"""Metres to both sides that a surface is moved to see what chance gives."""
STEP = 0.02
CHANCE = 0.05
"""Share of moved surfaces that may do as well as one that counts as heard."""
FACING = 0.94
"""Cosine between a surface's normal and an axis, above which it may be that axis' wall: 20 degrees."""
LEAST_PATHS = 3


@dataclass(frozen=True)
class SurfaceEcho:
    """What is heard of one surface.

    Attributes
    ----------
    paths : measurements that have a first-order echo off it.
    evidence : log likelihood ratio of those echoes against chance, at most ``TOLERANCE`` m from the surface.
    chance : share of places up to 3 m away that would do as well.
    heard : None where fewer than three measurements could.
    """

    surface: int
    paths: int
    evidence: float
    chance: float
    heard: bool | None


@dataclass(frozen=True)
class SurfaceCheck:
    """Every surface's echo, and what contradicts, a sentence each."""

    surfaces: list[SurfaceEcho]
    contradictions: list[str]

    def to_json(self) -> dict:
        """Everything as plain values."""
        return {"surfaces": [asdict(echo) for echo in self.surfaces], "contradictions": self.contradictions}


def check_surfaces(
    rirs: np.ndarray,
    positions: np.ndarray,
    receiver: np.ndarray,
    surfaces: Surfaces,
    estimate: ShoeboxEstimate,
) -> SurfaceCheck:
    """Which surfaces echo, and which echoes have no surface.

    An unheard surface is no contradiction by itself: it may absorb or scatter. A confidently estimated wall where there
    is no surface is one.

    Parameters
    ----------
    rirs : (N, T) at 22 050 Hz.
    positions, receiver : (N, 3) and (3,) m.
    surfaces : in the same coordinates.
    estimate : of :func:`~haa_peft.geometry.estimate.shoebox.estimate_shoebox`.
    """
    evidence = echo_evidence(rirs, positions, receiver)
    echoes = [surface_echo(evidence, surfaces, index) for index in range(len(surfaces))]
    contradictions = []
    for wall, name in enumerate(WALLS):
        if not estimate.confident[wall]:
            continue
        found = estimate.offsets[wall]
        given = _offsets_facing(surfaces, evidence.receiver, wall)
        nearest = min(given, key=lambda entry: abs(entry[1] - found), default=None)
        if nearest is None:
            contradictions.append(f"{name}: echoes of a wall at {found:.2f} m, but no surface faces that way")
            continue
        index, offset = nearest
        slack = max(estimate.high[wall] - found, found - estimate.low[wall], AGREEMENT)
        if abs(offset - found) > slack:
            unheard = "" if echoes[index].heard else ", where no echo is heard"
            contradictions.append(
                f"{name}: echoes of a wall at {found:.2f} m ({estimate.low[wall]:.2f} to {estimate.high[wall]:.2f}), "
                f"but the nearest surface, {index}, is at {offset:.2f} m{unheard}"
            )
    return SurfaceCheck(echoes, contradictions)


def surface_echo(evidence: EchoEvidence, surfaces: Surfaces, index: int) -> SurfaceEcho:
    """What is heard of one surface's first-order echoes, among the measurements that have one."""
    corner, first, second = _frame(surfaces, index)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    points, receiver = evidence.positions, evidence.receiver
    height, above = (points - corner) @ normal, (receiver - corner) @ normal
    same_side = height * above > 0
    mirrored = points - 2 * height[:, None] * normal
    share = np.where(same_side, height / np.where(same_side, height + above, 1), 0)
    hit = mirrored + share[:, None] * (receiver - mirrored)
    a, b = np.linalg.lstsq(np.stack([first, second], axis=1), (hit - corner).T, rcond=None)[0]
    on = same_side & (a >= 0) & (b >= 0)
    on &= (a + b <= 1) if surfaces.is_triangle[index] else (a <= 1) & (b <= 1)
    if on.sum() < LEAST_PATHS:
        return SurfaceEcho(index, int(on.sum()), float("nan"), float("nan"), None)
    reach = min(COMPARED, float(np.minimum(abs(above), np.abs(height[on]).min())) - 0.01)
    outwards = -np.sign(above)
    shifts = np.arange(-max(reach, TOLERANCE), COMPARED, STEP)
    moved = height[on, None] - outwards * shifts
    images = points[on, None] - 2 * moved[..., None] * normal
    rows = EchoEvidence(evidence.log_ratio[:, on], points[on], receiver)
    score = rows.of_images(images).sum(axis=0)
    window = round(TOLERANCE / STEP)
    best = np.array([score[max(0, i - window) : i + window + 1].max() for i in range(len(score))])
    here = int(np.abs(shifts).argmin())
    elsewhere = best[np.abs(shifts) > 2 * TOLERANCE]
    chance = float((elsewhere >= best[here]).mean())
    return SurfaceEcho(index, int(on.sum()), float(best[here]), chance, chance <= CHANCE and bool(best[here] > 0))


def _frame(surfaces: Surfaces, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corner and two edges of a surface."""
    corner, one, other = surfaces.points[index]
    return corner, one - corner, other - corner


def _offsets_facing(surfaces: Surfaces, receiver: np.ndarray, wall: int) -> list[tuple[int, float]]:
    """Surfaces across an axis, on the wall's side of the receiver, and where the axis through it meets their plane."""
    axis, side = divmod(wall, 2)
    facing = []
    for index in range(len(surfaces)):
        corner, first, second = _frame(surfaces, index)
        normal = np.cross(first, second)
        normal /= np.linalg.norm(normal)
        if abs(normal[axis]) < FACING:
            continue
        offset = receiver[axis] + (corner - receiver) @ normal / normal[axis]
        if (offset > receiver[axis]) == bool(side):
            facing.append((index, float(offset)))
    return facing
