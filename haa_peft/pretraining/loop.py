"""Pretraining the backbone on a corpus of simulated rooms, one room after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import audible_decay_loss, training_loss
from haa_peft.acoustics.spectrogram import energy_above_floor, magnitude, magnitude_from_log
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.simulation.corpus import CorpusRoom

KEPT_BYTES = 4 * 2**30
"""Most memory for energies of rooms that come again."""


class Rooms(Protocol):
    """Rooms by number: a simulated corpus, AcousticRooms, or both in a ``torch.utils.data.ConcatDataset``."""

    def __getitem__(self, index: int) -> CorpusRoom:
        """One room."""


class PooledPanoramas:
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


class Drawn(NamedTuple):
    """A simulated room, turned at will, and what is asked of it.

    Attributes
    ----------
    number : of the room in its corpus.
    room : as the network takes it; every position has its RIR.
    unturned : (P, 3) m, its positions before it was turned.
    targets, references : (T,) and (T, K) rows of the positions.
    """

    number: int
    room: RoomTensors
    unturned: Tensor
    targets: Tensor
    references: Tensor


def load_tensors(corpus: Rooms, panoramas: PooledPanoramas, index: int) -> RoomTensors:
    """One simulated room as the network takes it, its panorama pooled."""
    room = corpus[index]
    positions = torch.from_numpy(room.positions - room.receiver).float()
    return RoomTensors(panoramas[index], torch.from_numpy(room.rirs.astype(np.float32)), positions)


def turned(room: RoomTensors, rng: np.random.Generator) -> RoomTensors:
    """The room turned by a whole number of panorama columns, and y mirrored at will: geometry and positions alike."""
    columns = int(rng.integers(room.panorama.shape[-1]))
    angle = 2 * np.pi * columns / room.panorama.shape[-1]
    turn = torch.tensor(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], dtype=torch.float32
    )
    panorama = torch.einsum("ij,jhw->ihw", turn, room.panorama).roll(columns, dims=-1)
    positions = room.positions @ turn.T
    if rng.random() < 0.5:
        mirror = torch.tensor([1.0, -1.0, 1.0])
        # azimuth a of column j becomes -a, which is column W - 1 - j
        panorama = (panorama * mirror[:, None, None]).flip(-1)
        positions = positions * mirror
    return room._replace(panorama=panorama, positions=positions)


def pair_energies(rirs: Tensor, positions: Tensor) -> Tensor:
    """Energy in every frame of every RIR aligned to every position, (P, P, 310).

    Parameters
    ----------
    rirs, positions : (P, 9600) and (P, 3) m from the receiver.
    """
    every = torch.cartesian_prod(*[torch.arange(len(rirs))] * 2)
    parts = []
    for target, reference in zip(every[:, 0].split(64), every[:, 1].split(64), strict=True):
        aligned = magnitude(align(rirs[reference][:, None], positions[reference][:, None], positions[target])[:, 0])
        parts.append(energy_above_floor(aligned.square_()).sum(dim=1))
    return torch.cat(parts).unflatten(0, (len(rirs), -1))


def draw_queries(rng: np.random.Generator, sources: int, targets: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (T,) and for each K other sources as references, (T, K).

    Parameters
    ----------
    rng : changed by drawing.
    sources : how many there are.
    targets, k : how many to draw; fewer where there are not as many sources.
    """
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

    def forward(self, batch: Sequence[Drawn]) -> Tensor:
        """Mean :func:`~haa_peft.acoustics.losses.audible_decay_loss` over all rooms, a scalar.

        The published weighting shapes spectra too, so it has the published loss.
        """
        rooms = [one.room.to(self.backbone.device) for one in batch]
        asked = [[t.to(self.backbone.device) for t in (one.targets, one.references)] for one in batch]
        narrow = [room.narrowed(*rows) for room, rows in zip(rooms, asked, strict=True)]
        encoded = self.backbone.encode([room for room, *_ in narrow])
        losses = []
        for one, room, known, (targets, references), (_, rows, others) in zip(
            batch, rooms, encoded, asked, narrow, strict=True
        ):
            if self.backbone.config.weighting == "published":
                logs = self.backbone.predict([(known, known.targets(rows, others))])
                losses.append(training_loss(logs, magnitude(room.rirs[targets])).mean())
                continue
            pairs = self._pair_energies(one).to(targets.device)
            values = pairs[targets[:, None], references][:, :, None] if self.only_energies else None
            logs = self.backbone.predict([(known, known.targets(rows, others, values))])
            energy = energy_above_floor(magnitude_from_log(logs).square()).sum(dim=1)
            losses.append(audible_decay_loss(energy, pairs[targets, targets]).mean())
        return torch.stack(losses).mean()

    def _pair_energies(self, one: Drawn) -> Tensor:
        if one.number in self._kept:
            return self._kept[one.number]
        with torch.no_grad():
            energies = pair_energies(one.room.rirs, one.unturned)
        if self._kept_bytes + energies.nbytes <= KEPT_BYTES:
            self._kept[one.number] = energies
            self._kept_bytes += energies.nbytes
        return energies


def draw_batch(
    corpus: Rooms,
    panoramas: PooledPanoramas,
    rooms: Sequence[int] | np.ndarray,
    seed: tuple[int, ...],
    targets: int,
    max_k: int,
    *,
    training: bool,
    draws: int = 1,
) -> list[Drawn]:
    """Rooms with what is asked of them.

    Parameters
    ----------
    corpus, panoramas : the rooms, and their panoramas.
    rooms : numbers (B,) of those to draw from.
    seed : decides, with a room's number, what is drawn.
    targets, max_k : of a room, and references of a target at most.
    training : turn the rooms, and draw K from 1 to ``max_k``, mostly large.
    draws : of references for each target.
    """
    batch = []
    for index in rooms:
        rng = np.random.default_rng((*seed, int(index)))
        room = load_tensors(corpus, panoramas, int(index))
        unturned = room.positions
        if training:
            room = turned(room, rng)
        k = int(rng.integers(1, max_k + 1)) if training and rng.random() < 0.4 else max_k
        drawn = [draw_queries(rng, len(room.positions), targets, k) for _ in range(draws)]
        rows, references = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn, strict=True))
        batch.append(Drawn(int(index), room, unturned, rows, references))
    return batch
