"""Responses of two ears, or of an ambisonics microphone, from an RIR that is taken apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import oaconvolve

from haa_peft.listening.field import Field
from haa_peft.listening.hrtf import Head

ORDER = (1, 2, 0)
"""Which of x, y and z the channels behind the first are, by ACN."""


def rotation(yaw: float, pitch: float) -> np.ndarray:
    """Matrix (3, 3) from room to head coordinates, of a head that looks there; degrees, counterclockwise and up."""
    (c, s), (u, v) = ((np.cos(a), np.sin(a)) for a in np.radians([yaw, pitch]))
    front, left = np.array([u * c, u * s, v]), np.array([-s, c, 0.0])
    return np.stack([front, left, np.cross(front, left)])


def ambisonics(field: Field, turn: np.ndarray) -> np.ndarray:
    """Response (4, T) of first order, ACN and SN3D: W, Y, Z, X. W is the RIR itself.

    In a diffuse field the others have a third of its power each.

    Parameters
    ----------
    field : with three other channels.
    turn : (3, 3) as :func:`rotation` gives it.
    """
    found = np.concatenate([field.diffuse[None], field.others[list(ORDER)] / np.sqrt(3)])
    gains = (field.directions @ turn.T)[:, ORDER]
    width = field.directed.shape[1]
    found[0, :width] += field.directed.sum(axis=0)
    found[1:, :width] += gains.T @ field.directed
    return found


def binaural(head: Head) -> Callable[[Field, np.ndarray], np.ndarray]:
    """Gives a function from a field with one other channel and a turn (3, 3) to the ears' response (2, T + N)."""

    def response(field: Field, turn: np.ndarray) -> np.ndarray:
        late = np.stack([field.diffuse, field.others[0]])
        found = oaconvolve(late[None], head.late, axes=-1).sum(axis=1)
        directed = oaconvolve(field.directed[:, None], head.towards(field.directions @ turn.T), axes=-1).sum(axis=0)
        found[:, : directed.shape[1]] += directed
        return found[:, head.lead :]

    return response
