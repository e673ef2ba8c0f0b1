"""The loss of a backbone in one room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from haa_peft.acoustics.losses import training_loss
from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.errors import InputError
from haa_peft.model.predict import nearest_references
from haa_peft.model.tensors import EncodedRoom, RoomTensors
from haa_peft.model.xrir import AT_ONCE, XRIR
from haa_peft.rooms.room import Room
from haa_peft.training.frozen import Pairs, align_pairs, all_pairs, with_frozen


def check_k(k: int, shots: int, name: str) -> None:
    """Raise ``InputError`` unless there are K + 1 measurements: training predicts each from K others."""
    if k < 1:
        raise InputError(f"--k is {k} but must be at least 1")
    if shots < k + 1:
        remedy = (
            f"measure more or give --k {shots - 1}"
            if shots > 1
            else (
                "training needs at least 2, but `haa-peft adapters blend` stores another adapter with this reference "
                "as it is"
            )
        )
        raise InputError(f"{name}: {shots} training measurements are fewer than K + 1 = {k + 1}; {remedy}")


def draw_references(shots: int, k: int, seed: int, step: int, room: int = 0) -> np.ndarray:
    """For each of the measurements, K of the others, (shots, K).

    Parameters
    ----------
    shots, k : measurements of the room, and how many of them to draw for each.
    seed, step, room : decide what is drawn.
    """
    order = np.random.default_rng((seed, step, room) if room else (seed, step)).random((shots, shots))
    np.fill_diagonal(order, np.inf)
    return order.argsort(axis=1)[:, :k]


class RoomObjective(nn.Module):
    """Loss of the backbone over measurements of a room; a module, so that DDP sees the forward pass.

    What is frozen is computed once (:mod:`~haa_peft.training.frozen`), so this is made after the adapter is attached.
    """

    panorama: Tensor
    positions: Tensor
    rirs: Tensor
    magnitudes: Tensor
    view: Tensor | None

    def __init__(self, backbone: XRIR, room: Room, *, audible_decay: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.audible_decay = backbone, audible_decay
        self.shots = len(room.splits["train"])
        used = np.concatenate([room.splits["train"], room.splits["valid"]])
        tensors = RoomTensors.of_room(room, validation=True)
        for name in ("panorama", "rirs", "positions", "view"):
            self.register_buffer(name, getattr(tensors, name), persistent=False)
        self.register_buffer("magnitudes", magnitude(torch.from_numpy(room.rirs[used])), persistent=False)
        self._kept: tuple[RoomTensors, Pairs | None] | None = None

    @property
    def room(self) -> RoomTensors:
        """The room with what does not change during the run."""
        return self._room_and_pairs()[0]

    def _room_and_pairs(self) -> tuple[RoomTensors, Pairs | None]:
        """The room and its aligned pairs; made when first used, on the device of the run."""
        if self._kept is None:
            view = None if self.view is None else self.backbone.pool(self.view)
            room = RoomTensors(self.backbone.pool(self.panorama), self.rirs, self.positions, view)
            self._kept = with_frozen(self.backbone, room), all_pairs(self.backbone, room)
        return self._kept

    def forget(self) -> None:
        """Frozen parts have changed after all: compute them again."""
        self._kept = None

    def forward(self, targets: Tensor, references: Tensor) -> Tensor:
        """Loss of each target, (B,): indices (B,) into training then validation, (B, K) into training."""
        room, there, heard = self.room.narrowed(targets, references)
        (encoded,) = self.backbone.encode([room])
        return self._losses(encoded, there, heard, targets, references)

    def _losses(
        self, room: EncodedRoom, rows: Tensor, row_references: Tensor, targets: Tensor, references: Tensor
    ) -> Tensor:
        """Losses of targets that are known by their rows in an encoded room, and in this one."""
        asked = room.targets(rows, row_references, *self._pairs(targets, references))
        predicted = self.backbone.predict([(room, asked)])
        with torch.autocast(targets.device.type, enabled=False):
            return training_loss(predicted, self.magnitudes[targets], self.audible_decay)

    def _pairs(self, targets: Tensor, references: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values and features of references (B, K) aligned to targets (B,), as in ``Targets``.

        The features come with gradients where the audio encoder trains.
        """
        room, pairs = self._room_and_pairs()
        places = targets[:, None].expand_as(references), references
        if pairs is None:
            values, features = align_pairs(self.backbone, room, *(rows.flatten() for rows in places))
            values = values.unflatten(0, references.shape)
            features = None if features is None else features.unflatten(0, references.shape)
        else:
            values, features = pairs[0][places], None if pairs[1] is None else pairs[1][places]
        if features is None and self.backbone.config.align_before_encoding:
            return self.backbone.hear(values)
        return values, features

    def validation_losses(self, k: int) -> Tensor:
        """Losses (N,) at the validation positions, each predicted from its K nearest training positions."""
        return self.losses_at(np.arange(self.shots, len(self.positions)), k)

    @torch.no_grad()
    def losses_at(self, rows: np.ndarray, k: int) -> Tensor:
        """Loss (N,) at rows of ``positions``, each predicted from its K nearest training positions but itself."""
        positions = self.positions.cpu().numpy()
        nearest = nearest_references(positions[rows], positions[: self.shots], self.shots)
        references = np.stack([order[order != row][:k] for row, order in zip(rows, nearest, strict=True)])
        device = self.positions.device
        (encoded,) = self.backbone.encode([self.room])
        losses = []
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // AT_ONCE)):
            targets, chosen = (torch.from_numpy(values[part]).to(device) for values in (rows, references))
            losses.append(self._losses(encoded, targets, chosen, targets, chosen))
        return torch.cat(losses)


Draw = tuple[int, int, Tensor, Tensor]
"""A room's number, that of its variant (0 is the room itself), targets (b,) and references (b, K)."""


class RoomsObjective(nn.Module):
    """Losses of the backbone over measurements of several rooms, one adapter for all of them.

    ``each`` are those of one room alone. With ``augment``, some steps take place in variants of the rooms; validation
    never does.
    """

    def __init__(
        self,
        backbone: XRIR,
        rooms: Sequence[Room],
        *,
        audible_decay: float = 0.0,
        augment: Any = None,
    ) -> None:
        super().__init__()
        self.each = [RoomObjective(backbone, room, audible_decay=audible_decay) for room in rooms]
        self.rooms = nn.ModuleList(self.each)  # the same, as DDP finds them
        self.counts = [objective.shots for objective in self.each]
        self._sources, self._augment = list(rooms), augment
        for room in rooms if augment else ():
            augment.check(room)
        # not modules of this one: DDP would send what they hold to all processes at every step
        self._variants: dict[tuple[int, int], RoomObjective] = {}

    def forward(self, draws: Sequence[Draw]) -> Tensor:
        """Losses of all targets, (B,)."""
        found = []
        for i, variant, targets, references in draws:
            room = self._variants[i, variant] if variant else self.each[i]
            found.append(room(targets, references))
        return torch.cat(found)

    def draw(self, k: int, seed: int, step: int, rank: int, processes: int) -> list[Draw]:
        """A process' share of a step: every measurement of every room is a target once, among all processes.

        All randomness comes from seed and step: the same for any number of processes, and after a resume.

        Parameters
        ----------
        k : references of a target, or all others where a room has fewer.
        seed, step : of the run.
        rank, processes : which of how many processes asks.
        """
        device = self.each[0].positions.device
        rooms = np.repeat(np.arange(len(self.counts)), self.counts)[rank::processes]
        targets = np.concatenate([np.arange(count) for count in self.counts])[rank::processes]
        found = []
        for i in np.unique(rooms).tolist():
            drawn = draw_references(self.counts[i], min(k, self.counts[i] - 1), seed, step, i)
            mine = targets[rooms == i]
            variant = self._draw_variant(i, seed, step)
            found.append((i, variant, torch.from_numpy(mine).to(device), torch.from_numpy(drawn[mine]).to(device)))
        return found

    def _draw_variant(self, i: int, seed: int, step: int) -> int:
        """The variant of room ``i`` that a step takes place in; it is made if it is not there."""
        number = self._augment.draw(seed, step, i) if self._augment else 0
        if number and (i, number) not in self._variants:
            own = self.each[i]
            room = self._augment.vary(self._sources[i], (seed, i, number))
            variant = RoomObjective(own.backbone, room, audible_decay=own.audible_decay)
            self._variants[i, number] = variant.to(own.positions.device)
        return number

    def validation_losses(self, k: int) -> list[float]:
        """Losses at the validation positions of all rooms."""
        losses = [room.validation_losses(k) for room in self.each if len(room.positions) > room.shots]
        return torch.cat(losses).tolist()
