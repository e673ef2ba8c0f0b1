"""A dry sound in a room that a predictor has loaded, at a position or along a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.checks import real_numbers
from haa_peft.errors import InputError
from haa_peft.inference.extent import check_extent
from haa_peft.listening.convolve import heard_along, intervals, sent_along
from haa_peft.listening.path import HOP_S, check_path, poses_at

if TYPE_CHECKING:
    from haa_peft.inference.predictor import RoomPredictor

OUTPUTS = {"mono": 1}
"""And how many channels they have."""
HEADS = ("receiver", "source")
LONGEST_S = 1800.0
"""Of a sound that is auralised."""


@dataclass(frozen=True)
class Listening:
    """How a room is listened to.

    Attributes
    ----------
    output : one of ``OUTPUTS``.
    head : where the head or the microphone is: at the room's fixed point, the ``receiver``, while sources are at the
        positions; or at the positions, while the fixed point is the ``source`` (reciprocity).
    receiver : of several, which.
    k, seed : as ``RoomPredictor.predict`` takes them.
    """

    output: str = "mono"
    head: str = "receiver"
    receiver: ArrayLike | None = None
    k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for what, allowed in (("output", tuple(OUTPUTS)), ("head", HEADS)):
            if getattr(self, what) not in allowed:
                raise InputError(f"{what} is {getattr(self, what)!r:.60} but must be one of {', '.join(allowed)}")


def auralise(
    predictor: RoomPredictor, dry: ArrayLike, rate: int, position_or_path: ArrayLike, **more: object
) -> np.ndarray:
    """As :func:`stream`, all at once: (C, N + T - 1) float32, where T is the length of the room's RIRs.

    Parameters
    ----------
    predictor, dry, rate, position_or_path, **more : as there; (N,) or (N, channels), and (3,) or (P, 4 to 6).
    """
    return np.concatenate(list(stream(predictor, dry, rate, position_or_path, **more)), axis=1)  # type: ignore[arg-type]


def stream(
    predictor: RoomPredictor, dry: ArrayLike, rate: int, position_or_path: ArrayLike, *, output: str = "mono",
    head: str = "receiver", receiver: ArrayLike | None = None, k: int | None = None, seed: int = 0,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The sound in the room of the adapter in use, some samples after the other.

    Along a path the response changes every 50 ms at most, each giving way to the next within that time. The time that
    sound takes is in the responses; there is no Doppler shift.

    Parameters
    ----------
    predictor : with the adapter loaded.
    dry : (N,) samples, or (N, channels), whose mean is taken.
    rate : Hz of the sound and of what is returned.
    position_or_path : (3,) m in room coordinates, or rows (P, 4) of seconds and m, with yaw and pitch of the head in
        degrees behind if it turns, as :func:`~haa_peft.listening.path.read_path` gives them.
    output, head, receiver, k, seed : as :class:`Listening` has them.

    Yields
    ------
    (C, n) float32, N + T - 1 samples altogether. In the unit of the sound times that of the measurements, so that
    configurations can be compared; nothing is clipped.

    Raises
    ------
    InputError
        For sounds, rates, paths and positions that cannot be; before anything is computed.
    """
    how = Listening(output, head, receiver, k, seed)
    sound = check_sound(dry, rate)
    rows = check_path(position_or_path)
    moving = len(sound)
    if how.head == "source":
        moving += round(predictor.full_length * rate) - 1
    edges = np.append(np.arange(0, moving, round(HOP_S * rate)), moving)
    poses, parts = intervals(poses_at(rows, np.zeros(2), edges / rate), edges)
    scale = predictor.scale
    places = predictor.stream(
        poses[:, :3], k=how.k, seed=how.seed, sample_rate=rate, length="full", receiver=how.receiver
    )
    responses = (rir[None] * scale for part in places for rir in part)
    along = heard_along if how.head == "source" else sent_along
    return along(sound, responses, parts)


def check_sound(dry: ArrayLike, rate: int) -> np.ndarray:
    """A sound as one channel (N,) of float64; raises ``InputError`` for what is none, or for its ``rate`` in Hz."""
    check_extent(rate, None)
    sound = real_numbers("dry", dry)
    if sound.ndim == 2:
        sound = sound.mean(axis=1)
    if sound.ndim != 1 or not len(sound):
        raise InputError(f"dry is {np.shape(dry)} but must be (N,) samples, or (N, channels)")
    if not np.isfinite(sound).all():
        raise InputError("dry holds NaN or infinity but must be finite samples")
    if len(sound) > LONGEST_S * rate:
        raise InputError(f"dry lasts {len(sound) / rate:.0f} s but at most {LONGEST_S:g} s are auralised; take a part")
    return sound
