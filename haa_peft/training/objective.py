"""The loss of a backbone in one room."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from haa_peft.acoustics.losses import training_loss
from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError
from haa_peft.rooms.room import Room


def nearest_references(targets: np.ndarray, references: np.ndarray, k: int) -> np.ndarray:
    """Indices (N, K) of the K references (R, 3) nearest to each target (N, 3), the nearest first."""
    distance = np.linalg.norm(targets[:, None] - references, axis=-1)
    return distance.argsort(axis=1, kind="stable")[:, :k]


def check_k(k: int, shots: int, name: str) -> None:
    """Training predicts each measurement from K others, so it needs K + 1."""
    if k < 1:
        raise InputError(f"--k is {k} but must be at least 1")
    if shots < k + 1:
        remedy = f"measure more or give --k {shots - 1}" if shots > 1 else "training needs at least 2"
        raise InputError(f"{name}: {shots} training measurements are fewer than K + 1 = {k + 1}; {remedy}")


def draw_references(shots: int, k: int, seed: int, step: int) -> np.ndarray:
    """For each of the measurements, K of the others, (shots, K); the same for the same seed and step."""
    order = np.random.default_rng((seed, step)).random((shots, shots))
    np.fill_diagonal(order, np.inf)
    return order.argsort(axis=1)[:, :k]


class RoomObjective(nn.Module):
    """Loss of the backbone over measurements of a room; a module, so that DDP sees the forward pass."""

    panorama: Tensor
    positions: Tensor
    rirs: Tensor
    magnitudes: Tensor

    def __init__(self, backbone: XRIR, room: Room) -> None:
        super().__init__()
        self.backbone = backbone
        used = np.concatenate([room.splits["train"], room.splits["valid"]])
        self.shots = len(room.splits["train"])
        rirs = torch.from_numpy(room.rirs[used])
        for name, tensor in (
            ("panorama", torch.from_numpy(room.panorama)),
            ("positions", torch.from_numpy(room.positions[used] - room.receiver).float()),
            ("rirs", rirs[: self.shots]),
            ("magnitudes", magnitude(rirs)),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, targets: Tensor, references: Tensor) -> Tensor:
        """Loss of each target, (B,): indices (B,) into training then validation, (B, K) into training."""
        predicted = self.backbone.forward_room(self.panorama, self.rirs, self.positions, targets, references)
        return training_loss(predicted, self.magnitudes[targets])

    @torch.no_grad()
    def validation_loss(self, k: int) -> float:
        """Mean loss over the validation positions, or over the training positions where there are none.

        Each is predicted from its K nearest training positions, itself left out.
        """
        positions = self.positions.cpu().numpy()
        rows = np.arange(self.shots, len(positions))
        rows = rows if len(rows) else np.arange(self.shots)
        nearest = nearest_references(positions[rows], positions[: self.shots], self.shots)
        references = np.stack([order[order != row][:k] for row, order in zip(rows, nearest, strict=True)])
        device = self.positions.device
        losses = self(torch.from_numpy(rows).to(device), torch.from_numpy(references).to(device))
        return float(losses.mean())
