"""Which receiver each RIR of a room folder is of, and which pairs train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.entry import point
from haa_peft.rooms.room import NEAREST
from haa_peft.rooms.splits import default_splits


def read_receivers(description: Mapping[str, Any], count: int, where: Path) -> tuple[np.ndarray, np.ndarray]:
    """Receivers (V, 3) m of a room folder, and which of them each of its RIRs is of, (N,).

    Parameters
    ----------
    description : what ``room.json`` says: ``receiver_xyz``, or ``receivers`` (V x 3) and ``receiver_of`` (N indices).
    count : number of RIRs.
    where : what an error begins with.

    Raises
    ------
    InputError
        When neither or both are given, a receiver is no point or there twice, or RIRs and indices do not fit.
    """
    if "receivers" not in description:
        receiver = point(description.get("receiver_xyz"), where, "receiver_xyz")
        return receiver[None], np.zeros(count, dtype=int)
    if "receiver_xyz" in description:
        raise InputError(f"{where}: has receiver_xyz and receivers; leave one of them out")
    given = description["receivers"]
    if not isinstance(given, list) or not given:
        raise InputError(f"{where}: receivers is {given!r:.40} but must be a list of points [x, y, z] in metres")
    receivers = np.array([point(one, where, f"receiver {i}") for i, one in enumerate(given)])
    apart = np.linalg.norm(receivers[:, None] - receivers, axis=-1) + np.eye(len(receivers))
    if apart.min() < NEAREST:
        raise InputError(
            f"{where}: receivers {np.argwhere(apart < NEAREST)[0].tolist()} are the same point; give it once"
        )
    of = description.get("receiver_of")
    if (
        not isinstance(of, list)
        or len(of) != count
        or not all(type(one) is int and 0 <= one < len(given) for one in of)
    ):
        raise InputError(
            f"{where}: receiver_of is {of!r:.40} but must be a list of {count} whole numbers from 0 to "
            f"{len(given) - 1}, the receiver of each RIR"
        )
    counts = np.bincount(of, minlength=len(given))
    if counts.min() < 2:
        raise InputError(f"{where}: receiver {counts.argmin()} has {counts.min()} RIRs but needs at least 2")
    return receivers, np.array(of)


def splits_of_pairs(positions: np.ndarray, receiver_of: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of RIRs that train, validate and test, by their positions alone: what tests is unseen by all receivers.

    Parameters
    ----------
    positions : (N, 3) m.
    receiver_of : (N,) which receiver each is of.
    """
    if not receiver_of.any():
        return default_splits(positions)
    _, first, which = np.unique((positions / NEAREST).round(), axis=0, return_index=True, return_inverse=True)
    splits = default_splits(positions[np.sort(first)])
    rank = np.argsort(np.argsort(first))[which.reshape(-1)]  # positions by where they come first
    return {name: np.flatnonzero(np.isin(rank, indices)) for name, indices in splits.items()}
