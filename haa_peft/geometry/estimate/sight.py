"""What positions and their direct sound say about a depth map: sound takes no shorter way than the map leaves open."""

from __future__ import annotations

import numpy as np

from haa_peft.geometry.estimate.delays import STRAIGHT, is_on_time, lateness, on_time, places_of
from haa_peft.geometry.panorama import directions, pixels_of
from haa_peft.geometry.sources import Known

MARGIN, SHARE_OF_DISTANCE = 0.25, 0.05
"""Metres, and share of its distance, by which a position may lie behind a surface: scans and positions have errors."""
CONTRADICTED = 0.2
"""Of the positions; if more are heard too early, the map is not of this room."""
FEWEST = 2
"""One position that is heard too early is an error of the scan or of its own."""
NEIGHBOURS = 2
"""Pixels around a position's direction whose deepest counts."""
EDGE = 1.15
"""Ratio of neighbouring depths from which on they are of two things, one before the other."""
STEPS, FIRST = 24, 2
"""Points of a way from a rim that are looked at, and which of them is the first that is not at the rim any more."""


def behind(depth: np.ndarray, places: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Metres (N,) that places (N, 3) m from the receiver lie behind what a depth map (h, w) m shows; negative before.

    The deepest of 5 x 5 pixels (2 ``neighbours``) counts, and what is open (inf) hides nothing.
    """
    height, width = depth.shape
    row, column = (np.rint(x).astype(int) for x in pixels_of(places, height, width))
    around = np.arange(-neighbours, neighbours + 1)
    rows, columns = np.broadcast_arrays(row[:, None, None] + around[:, None], column[:, None, None] + around)
    deepest = depth[rows.clip(0, height - 1), columns % width].max(axis=(1, 2))
    return np.linalg.norm(places, axis=1) - deepest


def contradicting(depth: np.ndarray, known: Known) -> np.ndarray:
    """Indices (M,) of the positions that are heard before sound can have come round what a depth map (h, w) shows."""
    places, travelled = places_of(known)[on_time(known)], known.travelled[is_on_time(known)]
    hidden = np.flatnonzero(behind(depth, places) > _allowed(known))
    rims = _rims(depth) if len(hidden) else np.empty((0, 3))
    early = [i for i in hidden if not _is_reached(depth, rims, places[i], travelled[i] + STRAIGHT)]
    return on_time(known)[early]


def _allowed(known: Known) -> np.ndarray:
    """Metres (M,) that the positions on time may lie behind what is seen."""
    return MARGIN + SHARE_OF_DISTANCE * np.linalg.norm(places_of(known)[on_time(known)], axis=1)


def _rims(depth: np.ndarray) -> np.ndarray:
    """Points (E, 3) m at the rims of what stands before something else, from which sound bends behind it."""
    farther = np.zeros(depth.shape, dtype=bool)
    for shift in (1, -1):
        farther |= np.roll(depth, shift, axis=1) > EDGE * depth
    farther[1:] |= depth[:-1] > EDGE * depth[1:]
    farther[:-1] |= depth[1:] > EDGE * depth[:-1]
    farther &= np.isfinite(depth)
    return depth[farther][:, None] * directions(*depth.shape)[farther]


def _is_reached(depth: np.ndarray, rims: np.ndarray, place: np.ndarray, longest: float) -> bool:
    """Whether a way of at most ``longest`` metres leads round a rim to a place (3,).

    What lies behind things is not known, so a way may go anywhere there, but not come to light again and then
    through a wall.
    """
    way = np.linalg.norm(rims, axis=1) + np.linalg.norm(place - rims, axis=1)
    rims = rims[way <= longest]
    share = (np.arange(STEPS) + 1) / STEPS
    points = rims[:, None] + share[:, None] * (place - rims)[:, None]
    is_behind = (behind(depth, points.reshape(-1, 3), neighbours=0) > 0).reshape(len(rims), STEPS)
    return bool((np.diff(is_behind[:, FIRST:].astype(int), axis=1) <= 0).all(axis=1).any())


def contradicts(depth: np.ndarray, known: Known) -> bool:
    """Whether a depth map (h, w) is of another room: many are heard too early, or another convention hides none."""
    wrong = len(contradicting(depth, known))
    if wrong < FEWEST:
        return False
    return wrong > CONTRADICTED * len(on_time(known)) or bool(agreeing_turns(depth, known))


def complaint(depth: np.ndarray, known: Known) -> str:
    """What contradicts a depth map (h, w), in words."""
    early = contradicting(depth, known)
    distance = np.linalg.norm(places_of(known)[early[0]])
    surface = distance - behind(depth, places_of(known)[early[:1]])[0]
    return (
        f"{len(early)} of {len(on_time(known))} positions are heard through its surfaces, before sound can "
        f"have come round them (position {early[0]} is {distance:.2f} m away, the surface before it {surface:.2f} m)"
    )


def turned(depth: np.ndarray, degrees: int, mirrored: bool) -> np.ndarray:
    """A depth map (h, w) whose azimuth has another sign, then another zero: turned about the vertical by degrees."""
    return np.roll(depth[:, ::-1] if mirrored else depth, round(degrees / 360 * depth.shape[1]), axis=1)


def agreeing_turns(depth: np.ndarray, known: Known) -> list[tuple[int, bool]]:
    """Which quarter turns (degrees), of a map (h, w) or its mirror image, hide no position; the least changed first."""
    every = [(0, True), (180, False), (90, False), (-90, False), (180, True), (90, True), (-90, True)]
    return [way for way in every if not len(contradicting(turned(depth, *way), known))]


def sight_notes(depth: np.ndarray, known: Known) -> tuple[str, ...]:
    """How far positions and direct sound bear a depth map (h, w) out."""
    count, early = len(on_time(known)), contradicting(depth, known)
    if not count:
        return ("no direct sound comes at distance / 343 m/s or later, so nothing was checked against it",)
    names = ", ".join(str(i) for i in early)
    agreeing = f"; not so {names}, heard through a surface" if names else ""
    seen = behind(depth, places_of(known)[on_time(known)]) <= _allowed(known)
    late = seen & (lateness(known)[is_on_time(known)] >= STRAIGHT)
    if late.any():
        agreeing += (
            f"; {late.sum()} come later than straight though nothing is in the way (median "
            f"{np.median(lateness(known)[is_on_time(known)][late]):.2f} m): a latency, or positions that are wrong"
        )
    ways = agreeing_turns(depth, known)
    sign = "rests on what was stated, since the mirror image would agree as well"
    if (0, True) not in ways:
        sign = "is borne out, since the mirror image would not agree"
    return (
        f"direct sound agrees at {count - len(early) - late.sum()} of {count} positions{agreeing}",
        f"the sign of azimuth {sign}",
    )


def box_of(depth: np.ndarray, known: Known, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) m of the box around what is seen and all positions, with ``MARGIN``.

    ``depth`` (h, w) m is what is seen along ``rays`` (h, w, 3).
    """
    seen = (depth[..., None] * rays).reshape(-1, 3) + known.receiver
    points = np.concatenate([seen, known.positions])
    return points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN
