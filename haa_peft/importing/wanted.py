"""What people say about a source that it does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPAIRS = ("latency", "polarity", "units", "azimuth")
"""What the measurements themselves say how to mend."""
ALL = "all"


@dataclass(frozen=True)
class Wanted:
    """What is stated; None where nothing is.

    Attributes
    ----------
    positions : file of positions, for sources that hold none.
    rate : sample rate in Hz, likewise.
    receivers : points (3,) m that stay fixed: the one to take, or one for each channel.
    units : of lengths that come without, a key of ``UNITS``.
    channel : the one to take, counted from 1, or ``"all"``.
    view : degrees of azimuth that the listener looks at, where it turns.
    variables : names in a ``.mat`` or ``.npz`` file of ``rirs``, ``positions``, ``receiver`` and ``rate``.
    room_size : (3,) m, of a box with a corner at the origin.
    clockwise : azimuths count clockwise.
    repair : of ``REPAIRS``.
    allow_faults : write the room although something is wrong with it.
    """

    positions: Path | None = None
    rate: int | None = None
    receivers: tuple[tuple[float, float, float], ...] = ()
    units: str | None = None
    channel: int | str | None = None
    view: float | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    room_size: tuple[float, float, float] | None = None
    clockwise: bool = False
    repair: tuple[str, ...] = ()
    allow_faults: bool = False
