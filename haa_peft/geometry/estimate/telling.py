"""Which walls positions can tell, by geometry alone, before any sound is looked at.

A wall across an axis at ``w`` sends a first echo whose path from a position ``p`` to the receiver ``r`` is, squared,
the direct one's plus ``4 (w - p)(w - r)``, in coordinates along the axis. Where all positions share their ``p``, the
place ``p + r - w`` gives the same path for each: a wall and its mirror image about ``(p + r) / 2`` are one to the ear.
Where they share two coordinates, as on a line along an axis, walls across either give the same paths too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AXES = "xyz"
APART = 0.06
"""Metres that a position must be off the others along an axis; paths of wall and image then differ by twice that."""
LEAST = 3
"""Positions that must be."""


@dataclass(frozen=True)
class Telling:
    """What positions can tell.

    Attributes
    ----------
    told : (3,) whether walls across x, y and z are told from their mirror images.
    middle : (3,) m, what walls are mirrored about: half-way between the positions and the receiver.
    spread : (3,) m, standard deviation of the positions.
    """

    told: np.ndarray
    middle: np.ndarray
    spread: np.ndarray

    @property
    def shared(self) -> list[int]:
        """Axes along which positions share their coordinate."""
        return [int(axis) for axis in np.flatnonzero(~self.told)]

    def other_reading(self, offsets: np.ndarray) -> np.ndarray:
        """The walls (6,) m that give the same echoes as these, NaN where there are none: low and high swapped sides."""
        mirrored = 2 * np.repeat(self.middle, 2) - offsets.reshape(3, 2)[:, ::-1].ravel()
        return np.where(np.repeat(self.told, 2), np.nan, mirrored)

    def in_words(self) -> str:
        """One sentence: along which axes walls are told."""
        told = " and ".join(AXES[i] for i in np.flatnonzero(self.told)) or "no axis"
        text = f"these positions tell walls across {told}"
        if self.told.all():
            return text
        listed = " and ".join(
            f"{AXES[i]} (they differ by {self.spread[i]:.2f} m; mirrored about {self.middle[i]:.2f})"
            for i in self.shared
        )
        text += f", and cannot tell a wall from its mirror image across {listed}"
        if len(self.shared) > 1:
            text += f", nor the walls of {' and '.join(AXES[i] for i in self.shared)} from each other"
        return text


def telling(positions: np.ndarray, receiver: np.ndarray) -> Telling:
    """Which walls positions (N, 3) m around a receiver (3,) m can tell."""
    usual = np.median(positions, axis=0)
    off = (np.abs(positions - usual) > APART).sum(axis=0)
    return Telling(off >= LEAST, (usual + receiver) / 2, positions.std(axis=0))
