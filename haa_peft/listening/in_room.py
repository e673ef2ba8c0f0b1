"""A dry sound in a room that a predictor has loaded, at a position or along a path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.checks import real_numbers
from haa_peft.errors import InputError
from haa_peft.listening.arrivals import Surroundings
from haa_peft.listening.convolve import heard_along, intervals, sent_along
from haa_peft.listening.field import Field, Fields
from haa_peft.listening.hrtf import Hrtf, head_of, read_hrtf
from haa_peft.listening.path import HOP_S, check_facing, check_path, poses_at
from haa_peft.listening.spatial import ambisonics, binaural, rotation
from haa_peft.rendering.diffuse import field_seed
from haa_peft.rendering.extent import check_extent

if TYPE_CHECKING:
    from haa_peft.inference.predictor import RoomPredictor

OUTPUTS = ("mono", "binaural", "ambisonics")
HEADS = ("receiver", "source")
LONGEST_S = 900.0
"""Of a sound that is auralised."""


@dataclass(frozen=True)
class Listening:
    """How a room is listened to.

    Attributes
    ----------
    output : ``mono``; ``binaural``, left and right ear; or ``ambisonics``, four channels of first order (ACN, SN3D).
    hrtf : of the ears, a SOFA file or what :func:`~haa_peft.listening.hrtf.read_hrtf` gives.
    facing : yaw, or yaw and pitch, in degrees, of a head that does not turn: counterclockwise from the room's x axis,
        and up. Unless the path says it, the head looks to the other end at the path's beginning.
    head : where the head or the microphone is: at the room's fixed point, the ``receiver``, while sources are at the
        positions; or at the positions, while the fixed point is the ``source`` (reciprocity).
    receiver : of several, which.
    k, seed : as ``RoomPredictor.predict`` takes them.
    """

    output: str = "mono"
    hrtf: Hrtf | str | Path | None = None
    facing: ArrayLike | None = None
    head: str = "receiver"
    receiver: ArrayLike | None = None
    k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for what, allowed in (("output", OUTPUTS), ("head", HEADS)):
            if getattr(self, what) not in allowed:
                raise InputError(f"{what} is {getattr(self, what)!r:.60} but must be one of {', '.join(allowed)}")
        if (self.output == "binaural") != (self.hrtf is not None):
            raise InputError("binaural output needs hrtf, a SOFA file of a head's HRTFs; another output needs none")
        if self.output == "mono" and self.facing is not None:
            raise InputError("facing is given but mono output hears all directions alike; leave it out")


def auralise(
    predictor: RoomPredictor, dry: ArrayLike, rate: int, position_or_path: ArrayLike, **more: Any
) -> np.ndarray:
    """As :func:`stream`, all at once: (C, N + T - 1) float32, where T is the length of the room's RIRs.

    Parameters
    ----------
    predictor, dry, rate, position_or_path, **more : as there; (N,) or (N, channels), and (3,) or (P, 4 to 6).
    """
    return np.concatenate(list(stream(predictor, dry, rate, position_or_path, **more)), axis=1)


def stream(
    predictor: RoomPredictor, dry: ArrayLike, rate: int, position_or_path: ArrayLike, **more: Any
) -> Iterator[np.ndarray]:
    """The sound in the room of the adapter in use, some samples after the other.

    Along a path the response changes every 50 ms, each giving way to the next within that time.

    Parameters
    ----------
    predictor : with the adapter loaded.
    dry : (N,) samples, or (N, channels), whose mean is taken.
    rate : Hz of the sound and of what is returned.
    position_or_path : (3,) m in room coordinates, or rows (P, 4) of seconds and m, with yaw and pitch of the head in
        degrees behind if it turns, as :func:`~haa_peft.listening.path.read_path` gives them.
    **more : output, hrtf, facing, head, receiver, k and seed, as :class:`Listening` has them.

    Yields
    ------
    (C, n) float32, N + T - 1 samples altogether, T those of a response. In the unit of the sound times that of the
    measurements, so that configurations can be compared; nothing is clipped.

    Raises
    ------
    InputError
        For sounds, rates, paths and positions that cannot be; before anything is computed.
    """
    how = Listening(**more)
    sound = check_sound(dry, rate)
    rows = check_path(position_or_path)
    receiver = predictor.measured(how.receiver).receiver
    facing = check_facing(how.facing, rows)
    if facing is None:
        facing = looking(rows[0, 1:4] - receiver if how.head == "receiver" else receiver - rows[0, 1:4])
    spatial = _Spatial.of(predictor, receiver, rate, how)
    moving = len(sound)
    if how.head == "source":
        moving += round(predictor.full_length * rate) + spatial.longer - 1
    edges = np.append(np.arange(0, moving, round(HOP_S * rate)), moving)
    poses, parts = intervals(poses_at(rows, facing, edges / rate)[:, : 3 if how.output == "mono" else 5], edges)
    places = _runs(poses[:, :3])
    rirs = predictor.stream(
        poses[places, :3], k=how.k, seed=how.seed, sample_rate=rate, length="full", receiver=how.receiver
    )
    scale = predictor.scale
    single = (rir.astype(np.float64) * scale for part in rirs for rir in part)
    along = heard_along if how.head == "source" else sent_along
    delays = np.linalg.norm(poses[:, :3] - receiver, axis=1) / SPEED_OF_SOUND * rate
    return along(sound, spatial.responses(poses, places, single), delays, parts)


def looking(away: np.ndarray) -> np.ndarray:
    """Yaw and pitch (2,) in degrees of an upright head that turns to where (3,) points."""
    return np.array([np.degrees(np.arctan2(away[1], away[0])), 0.0])


def _runs(rows: np.ndarray) -> np.ndarray:
    """Numbers (R,) of the rows (N, columns) that differ from the one before."""
    return np.flatnonzero(np.append(True, (np.diff(rows, axis=0) != 0).any(axis=1)))


class _Spatial(NamedTuple):
    """How RIRs become responses (C, T + longer); without ``fields`` they stay as they are."""

    fields: Fields | None
    response: Callable[[Field, np.ndarray], np.ndarray]
    longer: int

    @classmethod
    def of(cls, predictor: RoomPredictor, receiver: np.ndarray, rate: int, how: Listening) -> _Spatial:
        if how.output == "mono":
            return cls(None, ambisonics, 0)
        around = Surroundings(predictor.geometry, receiver, how.head == "receiver")
        seed = field_seed(str(predictor.card["room"]["name"]), how.seed) + 1
        if how.output == "ambisonics":
            return cls(Fields(around, rate, 3, seed), ambisonics, 0)
        head = head_of(how.hrtf if isinstance(how.hrtf, Hrtf) else read_hrtf(str(how.hrtf)), rate)
        return cls(Fields(around, rate, 1, seed), binaural(head), head.late.shape[-1] - 1 - head.lead)

    def responses(self, poses: np.ndarray, places: np.ndarray, rirs: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """For each pose (P, 3 or 5), of which those numbered ``places`` have an RIR of their own."""
        own = set(places.tolist())
        for i, pose in enumerate(poses):
            if i in own:
                rir = next(rirs)
                field = None if self.fields is None else self.fields.of(rir, pose[:3])
            yield rir[None] if field is None else self.response(field, rotation(*pose[3:]))


def check_sound(dry: ArrayLike, rate: int) -> np.ndarray:
    """A sound as one channel (N,) float32; raises ``InputError`` for what is none, or for its ``rate`` in Hz."""
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
    return sound.astype(np.float32)
