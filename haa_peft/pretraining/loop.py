"""Pretraining the backbone on a corpus of simulated rooms, one room after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import audible_decay_loss, training_loss
from haa_peft.acoustics.spectrogram import energy_above_floor, magnitude, magnitude_from_log
from haa_peft.model.xrir import XRIR, RoomQueries
from haa_peft.simulation.corpus import CorpusRoom

KEPT_BYTES = 4 * 2**30
"""Most memory for energies of rooms that come again."""


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
        self.index = index
        self.panorama = panoramas[index]
        self.positions = torch.from_numpy(room.positions - room.receiver).float()
        self.unturned = self.positions
        self.rirs = torch.from_numpy(room.rirs.astype(np.float32))

    def pair_energies(self) -> Tensor:
        """Energy in every frame of every RIR aligned to every position, (P, P, 310)."""
        every = torch.cartesian_prod(*[torch.arange(len(self.rirs))] * 2)
        parts = []
        for target, reference in zip(every[:, 0].split(64), every[:, 1].split(64), strict=True):
            places = self.unturned[reference][:, None], self.unturned[target]
            aligned = magnitude(align(self.rirs[reference][:, None], *places)[:, 0])
            parts.append(energy_above_floor(aligned.square_()).sum(dim=1))
        return torch.cat(parts).unflatten(0, (len(self.rirs), -1))

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
    """Loss of the backbone over a few rooms; a module, so that DDP sees the forward pass.

    What turning a room does not change, its RIRs' energies aligned to its positions, is kept for later steps.
    """

    def __init__(self, backbone: XRIR) -> None:
        super().__init__()
        self.backbone = backbone
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0
        config = backbone.config
        self.only_energies = config.weighting == "energy" and not config.align_before_encoding

    def forward(self, rooms: list[tuple[RoomTensors, Tensor, Tensor]]) -> Tensor:
        """Mean :func:`~haa_peft.acoustics.losses.audible_decay_loss` of ``(room, targets (T,), references (T, K))``.

        The published weighting shapes spectra too, so it has the published loss.
        """
        device = self.backbone.device
        queries = [
            RoomQueries(*(t.to(device) for t in (room.panorama, room.rirs, room.positions, targets, references)))
            for room, targets, references in rooms
        ]
        if self.backbone.config.weighting == "published":
            predicted = self.backbone.forward_rooms(queries)
            losses = [
                training_loss(logs, magnitude(q.rirs[q.targets])) for logs, q in zip(predicted, queries, strict=True)
            ]
        else:
            pairs = [self._pair_energies(room).to(device) for room, *_ in rooms]
            if self.only_energies:
                energies = self.backbone.frame_energies(queries, pairs)
            else:
                powers = (magnitude_from_log(logs).square() for logs in self.backbone.forward_rooms(queries))
                energies = [energy_above_floor(power).sum(dim=1) for power in powers]
            losses = [
                audible_decay_loss(energy, every[query.targets, query.targets])
                for energy, every, query in zip(energies, pairs, queries, strict=True)
            ]
        return torch.stack([loss.mean() for loss in losses]).mean()

    def _pair_energies(self, room: RoomTensors) -> Tensor:
        if room.index in self._kept:
            return self._kept[room.index]
        with torch.no_grad():
            energies = room.pair_energies()
        if self._kept_bytes + energies.nbytes <= KEPT_BYTES:
            self._kept[room.index] = energies
            self._kept_bytes += energies.nbytes
        return energies


def draw_batch(
    corpus: Rooms,
    panoramas: Panoramas,
    rooms: Sequence[int] | np.ndarray,
    seed: tuple[int, ...],
    targets: int,
    max_k: int,
    *,
    training: bool,
    draws: int = 1,
) -> list[tuple[RoomTensors, Tensor, Tensor]]:
    """Rooms with queries, ``draws`` of references for each target.

    In training rooms are augmented, and K is drawn from 1 to ``max_k``, mostly large. What is drawn depends on ``seed``
    and the room's number alone.
    """
    batch = []
    for index in rooms:
        rng = np.random.default_rng((*seed, int(index)))
        room = RoomTensors(corpus, panoramas, int(index))
        if training:
            room.augment(rng)
        k = int(rng.integers(1, max_k + 1)) if training and rng.random() < 0.4 else max_k
        drawn = [draw_queries(rng, len(room.positions), targets, k) for _ in range(draws)]
        rows, references = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn, strict=True))
        batch.append((room, rows, references))
    return batch
