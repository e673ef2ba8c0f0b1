"""Predictions at another rate and length than the network's: what is asked, and what continues them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Protocol, cast

import numpy as np

from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.checks import check_whole
from haa_peft.errors import InputError
from haa_peft.model.phases import DIFFUSE, PHASES
from haa_peft.rooms.recordings import LONGEST_S, Recordings
from haa_peft.satellites import satellite
from haa_peft.store.pack import RATES, RoomPack

LOG = logging.getLogger(__name__)

FULL = "full"
SHORTEST_S = 0.01
"""Of a prediction."""


class LateField(Protocol):
    """What continues a room's predictions: :class:`haa_peft.rendering.render.Renderer`."""

    @property
    def full_s(self) -> float:
        """Seconds of a full length."""

    def render(
        self, predicted: np.ndarray, positions: np.ndarray, k: int, *, sample_rate: int, samples: int, diffuse: bool,
        seed: int, continued: bool = True,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """RIRs (T,) of predictions (N, 9600) at positions (N, 3) m; see there for ``k`` and what follows it.

        Parameters
        ----------
        predicted, positions, k, sample_rate, samples, diffuse, seed, continued : as there.
        """


def late_fields_of(views: Sequence[RoomPack]) -> tuple[LateField, ...]:
    """What predictions at each receiver of a room are continued from, all of the same full length.

    That is a pack's recordings, or its references where it keeps none. Raises ``InputError`` without the folder that
    does it.
    """
    rendering = satellite("rendering", "another sample rate, a length or a diffuse field")
    found = []
    for pack in views:
        own = len(pack.positions) - pack.card["room"].get("borrowed", 0)
        kept = pack.recordings or Recordings(pack.rirs[:own], SAMPLE_RATE)
        where = pack.positions[:own], pack.receiver, pack.geometry.bounds()
        found.append(rendering.Renderer(kept.rirs, kept.sample_rate, *where, str(pack.card["room"]["name"])))
    longest = max(one.full_s for one in found)
    return tuple(one if one.full_s == longest else one.with_length(longest) for one in found)


def check_phase(phase: str | None) -> str | None:
    """Raise ``InputError`` for a phase that predictors do not have; None is allowed."""
    if phase is not None and (not isinstance(phase, str) or phase not in (*PHASES, DIFFUSE)):
        raise InputError(f"phase is {phase!r:.60} but must be one of {', '.join((*PHASES, DIFFUSE))}")
    return phase


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


def note_missing(pack: RoomPack, sample_rate: int | None, length: str | float | None) -> None:
    """Warn of what is missing at a rate and length, as :func:`check_extent` allows them, without recordings."""
    if pack.recordings is None and (length is not None or (sample_rate or 0) > SAMPLE_RATE):
        LOG.warning(
            "note: %s keeps no recordings, so nothing is above 11 kHz and its decay after %.2f s is extrapolated; "
            "adapt to the room's folder again to keep them", pack.name, RIR_LENGTH / SAMPLE_RATE,
        )  # fmt: skip


def samples_of(sample_rate: int | None, length: str | float | None, late: LateField) -> int:
    """Samples of RIRs at a rate in Hz and of a length, as :func:`check_extent` allows them."""
    seconds = late.full_s if length == FULL else RIR_LENGTH / SAMPLE_RATE if length is None else float(length)
    return round(seconds * (sample_rate or SAMPLE_RATE))
