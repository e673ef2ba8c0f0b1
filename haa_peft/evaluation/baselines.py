"""What needs no learning."""

from __future__ import annotations

import numpy as np
import torch

from haa_peft.acoustics.alignment import align
from haa_peft.inference.predict import References
from haa_peft.training.objective import nearest_references


def nearest_neighbour(references: References, positions: np.ndarray) -> np.ndarray:
    """The nearest of all references, aligned: positions (N, 3) m from the receiver -> (N, 9600)."""
    return _weighted(references, positions, nearest_references(positions, references.positions, 1))


def linear_interpolation(references: References, positions: np.ndarray, k: int) -> np.ndarray:
    """Average of the K nearest aligned references, weighted by inverse distance, (N, 9600)."""
    return _weighted(references, positions, nearest_references(positions, references.positions, k))


def _weighted(references: References, positions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    rirs, places = references.rirs[chosen], references.positions[chosen]
    distance = np.linalg.norm(places - positions[:, None], axis=-1)
    weights = 1 / np.maximum(distance, 1e-6)
    weights /= weights.sum(axis=1, keepdims=True)
    aligned = align(
        torch.from_numpy(rirs), torch.from_numpy(places).float(), torch.from_numpy(np.asarray(positions)).float()
    ).numpy()
    return np.einsum("nk,nkt->nt", weights, aligned).astype(np.float32)
