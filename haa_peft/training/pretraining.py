"""Pretraining the backbone on a corpus of simulated rooms, one room after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from haa_peft.acoustics.losses import training_loss
from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.backbone.xrir import XRIR, RoomQueries
from haa_peft.rooms.corpus import CorpusRoom


class Rooms(Protocol):
    """Rooms by number: a simulated corpus, AcousticRooms, or both in a ``torch.utils.data.ConcatDataset``."""

    def __getitem__(self, index: int) -> CorpusRoom:
        """One room."""


class Panoramas:
    """Panoramas of a corpus, rendered once each and kept at the network's resolution."""

    def __init__(self, corpus: Rooms, pooling: int) -> None:
        self._corpus, self._pooling = corpus, pooling
        self._kept: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        """(3, 256 / pooling, 512 / pooling) m."""
        if index not in self._kept:
            full = torch.from_numpy(self._corpus[index].panorama())
            self._kept[index] = avg_pool2d(full, self._pooling)
        return self._kept[index]


class RoomTensors:
    """One simulated room as the network takes it, turned about the vertical and mirrored at will."""

    def __init__(self, corpus: Rooms, panoramas: Panoramas, index: int) -> None:
        room = corpus[index]
        self.panorama = panoramas[index]
        self.positions = torch.from_numpy(room.positions - room.receiver).float()
        self.rirs = torch.from_numpy(room.rirs.astype(np.float32))

    def augment(self, rng: np.random.Generator) -> None:
        """Turn by a whole number of panorama columns and mirror y, geometry and positions alike."""
        columns = int(rng.integers(self.panorama.shape[-1]))
        angle = 2 * np.pi * columns / self.panorama.shape[-1]
        turn = torch.tensor(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], dtype=torch.float32
        )
        self.panorama = torch.einsum("ij,jhw->ihw", turn, self.panorama).roll(columns, dims=-1)
        self.positions = self.positions @ turn.T
        if rng.random() < 0.5:
            mirror = torch.tensor([1.0, -1.0, 1.0])
            # azimuth a of column j becomes -a, which is column W - 1 - j
            self.panorama = (self.panorama * mirror[:, None, None]).flip(-1)
            self.positions = self.positions * mirror


def draw_queries(rng: np.random.Generator, sources: int, targets: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (T,) and for each K other sources as references, (T, K); fewer where there are not as many sources."""
    targets, k = min(targets, sources), min(k, sources - 1)
    order = rng.permutation(sources)
    target_rows = order[:targets]
    references = [rng.choice(np.setdiff1d(order, [t]), k, replace=False) for t in target_rows]
    return target_rows, np.stack(references)


class PretrainingObjective(nn.Module):
    """Loss of the backbone over a few rooms; a module, so that DDP sees the forward pass."""

    def __init__(self, backbone: XRIR) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, rooms: list[tuple[RoomTensors, Tensor, Tensor]]) -> Tensor:
        """Mean loss over ``(room, targets (T,), references (T, K))`` tuples."""
        device = self.backbone.device
        queries = [
            RoomQueries(*(t.to(device) for t in (room.panorama, room.rirs, room.positions, targets, references)))
            for room, targets, references in rooms
        ]
        losses = [
            training_loss(predicted, magnitude(room.rirs[room.targets])).mean()
            for predicted, room in zip(self.backbone.forward_rooms(queries), queries, strict=True)
        ]
        return torch.stack(losses).mean()


def draw_batch(
    corpus: Rooms,
    panoramas: Panoramas,
    rooms: Sequence[int] | np.ndarray,
    rng: np.random.Generator,
    targets: int,
    max_k: int,
    *,
    training: bool,
) -> list[tuple[RoomTensors, Tensor, Tensor]]:
    """Rooms with queries; in training they are augmented and K is drawn from 1 to ``max_k``, mostly large."""
    batch = []
    for index in rooms:
        room = RoomTensors(corpus, panoramas, int(index))
        if training:
            room.augment(rng)
        k = int(rng.integers(1, max_k + 1)) if training and rng.random() < 0.4 else max_k
        rows, references = draw_queries(rng, len(room.positions), targets, k)
        batch.append((room, torch.from_numpy(rows), torch.from_numpy(references)))
    return batch
