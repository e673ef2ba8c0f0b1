"""From where a head hears the direct sound and the first reflections, and which part of an RIR is theirs.

A surface of the panorama reflects where the way from the receiver over it to a position is shorter than over its
neighbours (Fermat), if the ray leaves as it came; in a box these are the image sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import minimum_filter

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.geometry.panorama import DepthMap, Geometry, render_panorama, surface_channels
from haa_peft.rendering.diffuse import mixing_time

NEIGHBOURS = 9
"""Pixels of a side, among which a way is the shortest."""
MIRRORED = np.cos(np.radians(10))
"""Cosine of the angle by which a ray may leave a surface otherwise than mirrored."""
APART = np.cos(np.radians(5))
"""Reflections within this angle are one."""
MOST = 16
"""Reflections of a position."""
LEAD_S, HOLDS_S, FALL_S = 0.0005, (0.004, 0.002), 0.001
"""Before an arrival, after the direct sound and after a reflection, and until it is the field's: its part of an RIR."""
DECAY_S = 0.001
"""Where parts overlap, energies decay so fast, so that what has just arrived has the larger share."""


@dataclass(frozen=True)
class Arrivals:
    """Direct sound and first reflections, in their order.

    Attributes
    ----------
    delays : (E,) s after the sound was sent.
    directions : (E, 3) unit vectors from the head, in room coordinates.
    energies : (E,) against the direct sound's, of surfaces that absorb nothing.
    """

    delays: np.ndarray
    directions: np.ndarray
    energies: np.ndarray


@dataclass(frozen=True)
class Surroundings:
    """A room around its receiver.

    Attributes
    ----------
    geometry, receiver : the room and (3,) m in its coordinates.
    at_receiver : whether the head is at the receiver, else at the positions.
    """

    geometry: Geometry
    receiver: np.ndarray
    at_receiver: bool

    @property
    def shown(self) -> bool:
        """Whether the geometry is the room's; what was assumed reflects nothing."""
        return not (isinstance(self.geometry, DepthMap) and self.geometry.trust == "assumed")

    @cached_property
    def mixed_s(self) -> float:
        """Seconds after the direct sound, from which the field is diffuse."""
        return mixing_time(*self.geometry.bounds())

    @cached_property
    def _seen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (h, w, 3) m from the receiver, how far they are (h, w), and where a ray goes from them (h, w, 3)."""
        surface = np.moveaxis(render_panorama(self.geometry, self.receiver), 0, -1)
        normal = np.moveaxis(surface_channels(self.geometry, self.receiver, ("normals",))[:3], 0, -1)
        there = np.linalg.norm(surface, axis=-1)
        ray = surface / there[..., None]
        onwards = ray - 2 * (ray * normal).sum(axis=-1, keepdims=True) * normal
        return surface, there, np.where((normal != 0).any(axis=-1, keepdims=True), onwards, 0)

    def arrivals(self, position: np.ndarray) -> Arrivals:
        """At or from a position (3,) m."""
        away = np.asarray(position - self.receiver, dtype=float)
        direct = float(np.linalg.norm(away))
        ways, directions = np.array([direct]), (away if self.at_receiver else -away)[None] / direct
        if self.shown:
            found, points = self._reflections(away)
            points = points if self.at_receiver else points - away
            ways = np.append(ways, found)
            directions = np.concatenate([directions, points / np.linalg.norm(points, axis=1, keepdims=True)])
            near = ways <= direct + self.mixed_s * SPEED_OF_SOUND
            ways, directions = ways[near], directions[near]
        return Arrivals(ways / SPEED_OF_SOUND, directions, (direct / ways) ** 2)

    def _reflections(self, away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lengths (E,) m of the shortest ways, and where they meet surfaces, (E, 3) m from the receiver."""
        surface, there, onwards = self._seen
        back = away - surface
        rest = np.linalg.norm(back, axis=-1)
        way = there + rest
        least = way == minimum_filter(way, NEIGHBOURS, mode=("nearest", "wrap"))
        least &= (back * onwards).sum(axis=-1) > MIRRORED * rest
        ways, points = way[least], surface[least]
        rays = points / there[least][:, None]
        kept: list[int] = []
        for i in ways.argsort(kind="stable"):
            if len(kept) < MOST and not (kept and (rays[kept] @ rays[i] > APART).any()):
                kept.append(int(i))
        return ways[kept], points[kept].astype(float)


def shares(arrivals: Arrivals, rate: int, count: int) -> np.ndarray:
    """Which share of each of an RIR's first samples is whose: (E, n), at most one together; the rest is the field's.

    Parameters
    ----------
    arrivals : E of them.
    rate, count : Hz, and samples of the RIR; n is no more.
    """
    holds = np.where(np.arange(len(arrivals.delays)) == 0, *HOLDS_S)[:, None]
    after = np.arange(count)[: round((arrivals.delays + holds[:, 0] + FALL_S).max() * rate) + 1] / rate
    after = after - arrivals.delays[:, None]
    window = np.minimum(1 + after / LEAD_S, 1 + (holds - after) / FALL_S).clip(0, 1)
    window[0, after[0] < 0] = 1
    window = np.sin(np.pi / 2 * window) ** 2
    claims = arrivals.energies[:, None] * window * np.exp(-after.clip(0) / DECAY_S)
    return claims / np.maximum(claims.sum(axis=0), 1e-30) * window.max(axis=0)
