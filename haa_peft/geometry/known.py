"""What is known of a room besides its geometry, which every geometry is checked against or made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import sounding_part
from haa_peft.acoustics.spectrogram import SAMPLE_RATE

STRAIGHT = 0.3
"""Metres by which direct sound may be earlier than its way, or come straight though it is later."""


@dataclass(frozen=True)
class Known:
    """What is known of a room besides its geometry.

    Attributes
    ----------
    receiver : (3,) metres in room coordinates.
    positions : (N, 3) metres in room coordinates.
    heard : indices of the positions whose measurements may be looked at, those that train.
    travelled : (M,) metres that their direct sound has come, by its delay.
    rirs : (M, T) at 22 050 Hz, of the heard ones; for geometry from sound alone.
    """

    receiver: np.ndarray
    positions: np.ndarray
    heard: np.ndarray
    travelled: np.ndarray
    rirs: np.ndarray | None = None

    @classmethod
    def of(cls, receiver: np.ndarray, positions: np.ndarray, rirs: np.ndarray, train: np.ndarray) -> Known:
        """From what was measured; the onset is 20 dB below the peak (ISO 3382-1).

        Parameters
        ----------
        receiver, positions : (3,) and (N, 3) m.
        rirs : (N, T) at 22 050 Hz.
        train : indices (M,) that may be heard.
        """
        onset, _ = sounding_part(rirs[train].astype(np.float64))
        return cls(receiver, positions, train, onset / SAMPLE_RATE * SPEED_OF_SOUND, rirs[train])

    @property
    def places(self) -> np.ndarray:
        """Positions as seen from the receiver, (N, 3) m."""
        return self.positions - self.receiver

    @property
    def late(self) -> np.ndarray:
        """Metres that the direct sound of the heard ones has come beyond their distance, (M,)."""
        return self.travelled - np.linalg.norm(self.places[self.heard], axis=1)

    @property
    def is_on_time(self) -> np.ndarray:
        """Which of the heard ones are not heard before sound can be there, (M,); other delays are not to be trusted."""
        return self.late > -STRAIGHT

    @property
    def on_time(self) -> np.ndarray:
        """Their indices (M,)."""
        return self.heard[self.is_on_time]

    @property
    def straight(self) -> np.ndarray:
        """Indices (M,) of the positions that are heard after their distance, as those in sight are."""
        return self.heard[np.abs(self.late) < STRAIGHT]
