"""Which positions train, validate and test."""

from __future__ import annotations

import numpy as np

SHOTS = 12
"""Measurements that adaptation may use."""
NAMES = ("train", "valid", "test")


def farthest_points(positions: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` well-spread positions (N, 3), in the order they are chosen.

    Starts at the position nearest the centroid, then takes the one farthest from all chosen; ties go to the
    lower index.
    """
    from scipy.spatial.distance import cdist

    start = int(np.linalg.norm(positions - positions.mean(axis=0), axis=1).argmin())
    chosen = [start]
    distance = cdist(positions, positions[[start]])[:, 0]
    while len(chosen) < min(count, len(positions)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, cdist(positions, positions[[chosen[-1]]])[:, 0])
    return np.array(chosen)


def default_splits(positions: np.ndarray, count: int = SHOTS) -> dict[str, np.ndarray]:
    """``count`` farthest of the positions (N, 3) train; the rest alternate between validation and test by index."""
    train = farthest_points(positions, count)
    rest = np.setdiff1d(np.arange(len(positions)), train)
    return {"train": train, "valid": rest[0::2], "test": rest[1::2]}
