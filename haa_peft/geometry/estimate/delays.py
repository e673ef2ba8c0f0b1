"""How far direct sound has come, against where positions are: which of them are heard straight, late or too early."""

from __future__ import annotations

import numpy as np

from haa_peft.geometry.sources import Known

STRAIGHT = 0.3
"""Metres by which direct sound may be earlier than its way, or come straight though it is later."""


def places_of(known: Known) -> np.ndarray:
    """Positions as seen from the receiver, (N, 3) m."""
    return known.positions - known.receiver


def lateness(known: Known) -> np.ndarray:
    """Metres that the direct sound of the heard ones has come beyond their distance, (M,)."""
    return known.travelled - np.linalg.norm(places_of(known)[known.heard], axis=1)


def is_on_time(known: Known) -> np.ndarray:
    """Which of the heard ones are not heard before sound can be there, (M,); other delays are not to be trusted."""
    return lateness(known) > -STRAIGHT


def on_time(known: Known) -> np.ndarray:
    """Their indices (M,)."""
    return known.heard[is_on_time(known)]


def straight(known: Known) -> np.ndarray:
    """Indices (M,) of the positions that are heard after their distance, as those in sight are."""
    return known.heard[np.abs(lateness(known)) < STRAIGHT]
