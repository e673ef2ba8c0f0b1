"""Measurements as they were recorded: at their own rate, and as long as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.rooms.room import Room

LONGEST_S = 10.0
"""What comes later is not kept."""


@dataclass(frozen=True)
class Recordings:
    """A room's own training measurements.

    Attributes
    ----------
    rirs : (R, T) float16, divided by the room's ``scale``. Rounding lies 72 dB below the signal at any time, or 150 dB
        below the loudest sample.
    sample_rate : Hz.
    """

    rirs: np.ndarray
    sample_rate: int

    @classmethod
    def of_room(cls, room: Room) -> Recordings | None:
        """Those of a room that was read from files; None where there are none, or the files have gone."""
        own = room.without_borrowed()
        if own.recorded is None:
            return None
        try:
            rirs, rate = own.recorded(LONGEST_S)
        except InputError:
            return None
        if len(rirs) != len(own.rirs):
            return None
        return cls((rirs[own.splits["train"]] / own.scale).astype(np.float16), rate)

    def describe(self) -> dict[str, Any]:
        """What a card says of them."""
        seconds = round(self.rirs.shape[1] / self.sample_rate, 3)
        return {"sample_rate": self.sample_rate, "seconds": seconds, "bytes": self.rirs.nbytes}
