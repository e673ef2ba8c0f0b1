"""References of a room, each predicted from the others: how good predictions are, without further measurements."""

from __future__ import annotations

import numpy as np
import torch

from haa_peft.inference.network import RoomNetwork
from haa_peft.model.predict import choose_targets, positions_at_once
from haa_peft.model.tensors import EncodedRoom
from haa_peft.rooms.splits import farthest_points

MOST = 32
"""References that are predicted, well spread, where a room has more."""


def without(room: EncodedRoom, row: int | np.integer) -> EncodedRoom:
    """A room as encoded without one of its R references, nor what levels know of it.

    What was fitted with it, the adapter and the levels' hyperparameters, stays.
    """
    keep = torch.arange(len(room.rirs)).ne(int(row))
    kept = {name: getattr(room, name)[keep.to(room.rirs.device)] for name in ("rirs", "positions", "views", "keys")}
    levels = None if room.levels is None else room.levels.seeing(keep.numpy())
    return room._replace(**kept, levels=levels, features=None)


def predict_left_out(network: RoomNetwork, room: EncodedRoom, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some references, each predicted from the others: rows (n,), and RIRs (n, 9600) float32.

    Parameters
    ----------
    network : that the room was encoded by.
    room : with R references; nothing is left out of a single one.
    k : nearest references that each is predicted from, or all others if these are fewer.
    seed : of a random phase.
    """
    positions = room.positions.double().cpu().numpy()
    rows = np.sort(farthest_points(positions, MOST)) if len(positions) > 1 else np.arange(0)
    k = min(k, len(positions) - 1)
    asked = [(others, choose_targets(others, positions[[row]], k)) for row in rows for others in [without(room, row)]]
    at_once = positions_at_once(network.base.device, k) if k else 1
    found = [network.rirs(asked[i : i + at_once], seed) for i in range(0, len(asked), at_once)]
    return rows, np.concatenate(found) if found else np.empty((0, room.rirs.shape[1]), dtype=np.float32)
