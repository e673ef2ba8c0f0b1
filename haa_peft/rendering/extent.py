"""How RIRs are wanted where not as modelled: at which rate, of which length, with which phase; and what is done."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from numbers import Real
from typing import cast

import numpy as np

from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.checks import check_whole
from haa_peft.errors import InputError
from haa_peft.inference.asked import check_finite_rirs
from haa_peft.inference.loaded import LoadedRoom
from haa_peft.model.phases import DIFFUSE
from haa_peft.rooms.recordings import LONGEST_S
from haa_peft.store.pack import RATES, RoomPack

LOG = logging.getLogger(__name__)

FULL = "full"
SHORTEST_S = 0.01
"""Of a prediction."""


def check_extent(sample_rate: int | None, length: str | float | None) -> None:
    """Raise ``InputError`` for a rate in Hz or a length in seconds at which nothing is predicted."""
    low, high = RATES
    if sample_rate is not None:
        check_whole("sample_rate", sample_rate, low, high)
    if length is not None and not (isinstance(length, str) and length == FULL):
        number = isinstance(length, Real) and not isinstance(length, bool)
        if not number or not SHORTEST_S <= cast(float, length) <= LONGEST_S:
            raise InputError(
                f'length is {length!r:.60} but must be "{FULL}" or seconds from {SHORTEST_S:g} to {LONGEST_S:g}'
            )


@dataclass(frozen=True)
class Extent:
    """Of RIRs that are asked for; raises ``InputError`` for what nothing is predicted at.

    Attributes
    ----------
    sample_rate : Hz; that of the network unless given.
    length : seconds, or ``full``; that of the network unless given.
    phase : one of ``PHASES`` or diffuse; unless given, diffuse where a rate or a length is.
    seed : of the starting phase where that is random, and of the diffuse field.
    """

    sample_rate: int | None
    length: str | float | None
    phase: str | None
    seed: int

    def __post_init__(self) -> None:
        check_extent(self.sample_rate, self.length)

    @property
    def as_modelled(self) -> bool:
        """Whether an answer is what the network predicts, as it is."""
        return self.sample_rate in (None, SAMPLE_RATE) and self.length is None and self.phase != DIFFUSE

    def samples(self, room: LoadedRoom) -> int:
        """Of an RIR in a room."""
        if self.length is None and self.sample_rate in (None, SAMPLE_RATE):
            return RIR_LENGTH
        modelled = RIR_LENGTH / SAMPLE_RATE
        seconds = room.late[0].full_s if self.length == FULL else modelled if self.length is None else self.length
        return round(float(seconds) * (self.sample_rate or SAMPLE_RATE))

    def note_missing(self, pack: RoomPack) -> None:
        """Warn of what is missing where a pack keeps no recordings."""
        if pack.recordings is None and (self.length is not None or (self.sample_rate or 0) > SAMPLE_RATE):
            LOG.warning(
                "note: %s keeps no recordings, so nothing is above 11 kHz and its decay after %.2f s is extrapolated; "
                "adapt to the room's folder again to keep them", pack.name, RIR_LENGTH / SAMPLE_RATE,
            )  # fmt: skip

    def finished(self, room: LoadedRoom, number: int, positions: np.ndarray, rirs: np.ndarray, k: int) -> np.ndarray:
        """What the network predicts, which is finite, as it was wanted: (N, T) float32.

        Parameters
        ----------
        room, number : where, and at which of its receivers.
        positions : (N, 3) m in room coordinates.
        rirs : (N, 9600) predicted there, from ``k`` references each.
        k : see ``rirs``.

        Raises
        ------
        InputError
            When what is rendered is not finite.
        """
        if self.as_modelled:
            return rirs
        found = room.late[number].render(
            rirs, positions, k, sample_rate=self.sample_rate or SAMPLE_RATE, samples=self.samples(room),
            diffuse=self.phase in (None, DIFFUSE), seed=self.seed, continued=self.length is not None,
        )  # fmt: skip
        return check_finite_rirs(room.pack.name, positions, np.stack(list(found)))
