"""What positions and their direct sound say about a depth map: whoever is heard straight is not behind a wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import sounding_part
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.geometry.panorama import pixels_of

MARGIN, SHARE_OF_DISTANCE = 0.25, 0.05
"""Metres, and share of its distance, by which a position may lie behind a surface: scans and positions have errors."""
STRAIGHT = 0.3
"""Metres; direct sound that has come farther than this beyond the distance has bent round something."""
CONTRADICTED = 0.2
"""Of the positions that are heard straight; if more lie behind surfaces, the map is not of this room."""
NEIGHBOURS = 2
"""Pixels around a position's direction whose deepest counts."""


@dataclass(frozen=True)
class Known:
    """What is known of a room besides its geometry.

    Attributes
    ----------
    receiver : (3,) metres in room coordinates.
    positions : (N, 3) metres in room coordinates.
    heard : indices of the positions whose measurements may be looked at, those that train.
    travelled : (M,) metres that their direct sound has come, by its delay.
    """

    receiver: np.ndarray
    positions: np.ndarray
    heard: np.ndarray
    travelled: np.ndarray

    @classmethod
    def of(cls, receiver: np.ndarray, positions: np.ndarray, rirs: np.ndarray, train: np.ndarray) -> Known:
        """From RIRs (N, T) at 22 050 Hz; the onset is 20 dB below the peak (ISO 3382-1)."""
        onset, _ = sounding_part(rirs[train].astype(np.float64))
        return cls(receiver, positions, train, onset / SAMPLE_RATE * SPEED_OF_SOUND)

    @property
    def places(self) -> np.ndarray:
        """Positions as seen from the receiver, (N, 3) m."""
        return self.positions - self.receiver

    @property
    def late(self) -> np.ndarray:
        """Metres that the direct sound of the heard ones has come beyond their distance, (M,)."""
        return self.travelled - np.linalg.norm(self.places[self.heard], axis=1)

    @property
    def straight(self) -> np.ndarray:
        """Indices of the positions that are heard straight."""
        return self.heard[np.abs(self.late) < STRAIGHT]


def behind(depth: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Metres that places (N, 3), as seen from the receiver, lie behind what a depth map shows there; negative before.

    The deepest of 5 x 5 pixels counts, and what is open (inf) hides nothing.
    """
    height, width = depth.shape
    row, column = (np.rint(x).astype(int) for x in pixels_of(places, height, width))
    around = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    rows, columns = np.broadcast_arrays(row[:, None, None] + around[:, None], column[:, None, None] + around)
    deepest = depth[rows.clip(0, height - 1), columns % width].max(axis=(1, 2))
    return np.linalg.norm(places, axis=1) - deepest


def contradicting(depth: np.ndarray, known: Known) -> np.ndarray:
    """Indices of the positions that are heard straight though the depth map hides them."""
    straight = known.straight
    places = known.places[straight]
    allowed = MARGIN + SHARE_OF_DISTANCE * np.linalg.norm(places, axis=1)
    return straight[behind(depth, places) > allowed]


def contradicts(depth: np.ndarray, known: Known) -> bool:
    """Whether too many of the positions that are heard straight are hidden."""
    return len(contradicting(depth, known)) > CONTRADICTED * len(known.straight)


def complaint(depth: np.ndarray, known: Known) -> str:
    """What contradicts, in words."""
    hidden = contradicting(depth, known)
    distance = np.linalg.norm(known.places[hidden[0]])
    surface = distance - behind(depth, known.places[hidden[:1]])[0]
    return (
        f"{len(hidden)} of {len(known.straight)} positions whose direct sound comes straight lie behind its surfaces "
        f"(position {hidden[0]} is {distance:.2f} m away, the surface before it {surface:.2f} m)"
    )


def turned(depth: np.ndarray, degrees: int, mirrored: bool) -> np.ndarray:
    """A depth map whose azimuth has another sign, then another zero: turned about the vertical by whole degrees."""
    return np.roll(depth[:, ::-1] if mirrored else depth, round(degrees / 360 * depth.shape[1]), axis=1)


def agreeing_turns(depth: np.ndarray, known: Known) -> list[tuple[int, bool]]:
    """Which quarter turns (degrees), of the map or of its mirror image, hide no position; the least changed first."""
    every = [(0, True), (180, False), (90, False), (-90, False), (180, True), (90, True), (-90, True)]
    return [way for way in every if not len(contradicting(turned(depth, *way), known))]


def sight_notes(depth: np.ndarray, known: Known) -> tuple[str, ...]:
    """How far positions and direct sound bear a depth map out."""
    straight, hidden = known.straight, contradicting(depth, known)
    if not len(straight):
        return ("no direct sound comes at distance / 343 m/s, so nothing was checked against it",)
    notes = [f"{len(straight) - len(hidden)} of the {len(straight)} positions that are heard straight are in sight"]
    if len(hidden):
        notes[0] += f", {', '.join(str(i) for i in hidden)} not"
    ways = agreeing_turns(depth, known)
    if (0, True) in ways:
        notes.append("they would be in its mirror image too, so the sign of azimuth rests on what was stated")
    else:
        notes.append("in its mirror image some would be hidden, so the sign of azimuth is borne out")
    return tuple(notes)


def box_of(depth: np.ndarray, known: Known, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) m of the box around what is seen and where is heard straight, with ``MARGIN``."""
    seen = (depth[..., None] * rays).reshape(-1, 3) + known.receiver
    points = np.concatenate([seen, known.positions[known.straight]])
    return points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN
