"""RIRs with both ends of their way, and what a file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.checks import real_numbers
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.inference.predictor import RoomPredictor

LARGEST = 2 << 30
"""Bytes of RIRs as float32, more than which are not written at once; ``haa-peft import`` reads as many."""


@dataclass(frozen=True)
class Responses:
    """RIRs of one room.

    Attributes
    ----------
    rirs : (N, T) float32.
    sample_rate : Hz.
    positions : (N, 3) m in room coordinates.
    receivers : (N, 3) m, the fixed point of each.
    room : what the room is called.
    box : (2, 3) m, lowest and highest corner, of a room that is one; None for any other.
    licence : of the data.
    about : how they were made, a line.
    """

    rirs: np.ndarray
    sample_rate: int
    positions: np.ndarray
    receivers: np.ndarray
    room: str
    box: np.ndarray | None = None
    licence: str = "unknown"
    about: str = ""


def predict_responses(
    predictor: RoomPredictor, positions: np.ndarray, *, receiver: int | None = None, k: int | None = None,
    seed: int = 0, **more: Any,
) -> Responses:  # fmt: skip
    """RIRs that the adapter in use predicts at positions, in units of the measurements.

    Parameters
    ----------
    predictor : with the adapter loaded.
    positions : (N, 3) m in room coordinates.
    receiver : number of the one that is meant; with None, RIRs of each follow those of the one before.
    k, seed, **more : as :meth:`~haa_peft.inference.predictor.RoomPredictor.predict` takes them.

    Raises
    ------
    InputError
        For positions that the room does not have, or more than are written at once.
    """
    positions = np.atleast_2d(real_numbers("positions", positions))
    heard = range(len(predictor.receivers)) if receiver is None else [receiver]

    def predict(some: np.ndarray, at: int) -> np.ndarray:
        return predictor.predict(some, receiver=at, k=k, seed=seed, **more)

    size = len(positions) * len(heard) * predict(positions[:1], heard[0]).nbytes
    if size > LARGEST:
        raise InputError(
            f"{len(positions)} positions are {size / 2**30:.1f} GiB of RIRs but at most {LARGEST >> 30} GiB are "
            "written at once; give fewer positions or a shorter length"
        )
    rirs = np.concatenate([predict(positions, at) for at in heard])
    card, geometry = predictor.card, predictor.geometry
    used = card["training"]["k"] if k is None else k
    return Responses(
        rirs=(rirs * predictor.scale).astype(np.float32),
        sample_rate=int(more.get("sample_rate") or predictor.sample_rate),
        positions=np.tile(positions, (len(heard), 1)),
        receivers=predictor.receivers[list(heard)].repeat(len(positions), axis=0),
        room=str(card["room"]["name"]),
        box=box_of(geometry) if isinstance(geometry, Surfaces) else None,
        licence=str(card["room"].get("licence", "unknown")),
        about=f"{_how(more)} by the adapter {predictor.name} (digest {str(card.get('digest', 'none'))[:16]}) of the "
        f"backbone {card['backbone']['origin']}, K = {used}, seed {seed}; its data: "
        f"{card['room'].get('source', 'unknown')}",
    )


def box_of(surfaces: Surfaces) -> np.ndarray | None:
    """Lowest and highest corner (2, 3) m if the surfaces are the six walls of a box along the axes; else None."""
    if len(surfaces) != 6 or surfaces.is_triangle.any():
        return None
    low, high = surfaces.bounds()
    corners = np.concatenate(
        [surfaces.points, surfaces.points[:, 1:2] + surfaces.points[:, 2:] - surfaces.points[:, :1]], axis=1
    )
    at_low, at_high = (np.isclose(corners, side, atol=1e-6) for side in (low, high))
    walls = np.concatenate([at_low.all(axis=1), at_high.all(axis=1)], axis=1)
    return np.stack([low, high]) if (at_low | at_high).all() and (walls.sum(axis=0) == 1).all() else None


def _how(asked: Mapping[str, Any]) -> str:
    """What was done, by the rate and length that were asked for."""
    if asked.get("length") is None and asked.get("sample_rate") is None:
        return "predicted"
    return "predicted, and brought to this rate and length with a late field of the measurements,"
