"""A room as the network takes it, and as the network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from haa_peft.rooms.room import Room


class RoomTensors(NamedTuple):
    """One configuration of a room as tensors, for training and for prediction.

    Attributes
    ----------
    panorama : (3 or more, 256, 512) m, or pooled already (:meth:`~haa_peft.model.xrir.XRIR.pool`).
    rirs : (R, 9600) measured RIRs at 22 050 Hz, the references.
    positions : (P, 3) m from the receiver; the first R are those of ``rirs``.
    view : what the geometry encoder sees if not the panorama: the same surfaces from another viewpoint.
    views : (1 + P, ...) what the first ``stages`` of the geometry chain give for the receiver and the positions, where
        nothing changes them any more; computed unless given, as ``audio`` and ``features`` are.
    audio : (R, F) features of the references as measured.
    features : (P, 3 or 19) :meth:`~haa_peft.model.xrir.XRIR.position_features`.
    """

    panorama: Tensor
    rirs: Tensor
    positions: Tensor
    view: Tensor | None = None
    stages: int = 0
    views: Tensor | None = None
    audio: Tensor | None = None
    features: Tensor | None = None

    @classmethod
    def of_arrays(
        cls, panorama: np.ndarray, rirs: np.ndarray, positions: np.ndarray, device: torch.device | None = None
    ) -> RoomTensors:
        """The same from arrays.

        Parameters
        ----------
        panorama : (3 or more, 256, 512) m.
        rirs : (R, 9600) at 22 050 Hz.
        positions : (P, 3) m from the receiver, in any precision.
        device : where the tensors shall lie.
        """
        room = cls(torch.from_numpy(panorama), torch.from_numpy(rirs), torch.from_numpy(positions).float())
        return room if device is None else room.to(device)

    @classmethod
    def of_room(cls, room: Room, device: torch.device | None = None, *, validation: bool = False) -> RoomTensors:
        """The training measurements of a room; with ``validation``, as training takes it.

        Validation positions then lie behind the training positions, and the room is seen from its viewpoint.
        """
        train = room.splits["train"]
        used = np.concatenate([train, room.splits["valid"]]) if validation else train
        found = cls.of_arrays(room.panorama, room.rirs[train], room.positions[used] - room.receiver, device)
        is_moved = validation and room.viewpoint is not None
        return found._replace(view=torch.from_numpy(room.view).to(device)) if is_moved else found

    def to(self, device: torch.device) -> RoomTensors:
        """The same on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)

    @property
    def seen(self) -> Tensor:
        """What the geometry encoder sees, (3 or more, h, w) m."""
        return self.panorama if self.view is None else self.view

    def narrowed(self, targets: Tensor, references: Tensor) -> tuple[RoomTensors, Tensor, Tensor]:
        """The room with the positions alone that a batch needs, so that nothing else is encoded.

        Parameters
        ----------
        targets, references : (B,) rows of ``positions``, and (B, K) rows below R.

        Returns
        -------
        The smaller room, and the targets and references as rows of it.
        """
        heard = torch.unique(references)
        others = torch.unique(targets[~torch.isin(targets, heard)])
        rows = torch.cat([heard, others])
        places = torch.empty(len(self.positions), dtype=rows.dtype, device=rows.device)
        places[rows] = torch.arange(len(rows), device=rows.device)
        room = self._replace(
            rirs=self.rirs[heard],
            positions=self.positions[rows],
            views=None if self.views is None else self.views[torch.cat([rows.new_zeros(1), 1 + rows])],
            audio=None if self.audio is None else self.audio[heard],
            features=None if self.features is None else self.features[rows],
        )
        return room, places[targets], places[references]


class Levels(Protocol):
    """Of a room's RIRs at any position: :class:`haa_peft.levels.room.RoomLevels`."""

    @property
    def at_receivers(self) -> Sequence[Levels]:
        """Those at each receiver."""

    @property
    def bytes(self) -> int:
        """Of the tensors that are stored."""

    def correct(self, rirs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """RIRs (N, 9600) at positions (N, 3) m from the receiver, with these levels."""

    def seeing(self, rows: np.ndarray) -> Levels:
        """The same with some of the measurements alone, (R,) bool."""

    def tensors(self) -> dict[str, Tensor]:
        """What is stored."""

    def describe(self) -> dict[str, Any]:
        """What a card says."""


class EncodedRoom(NamedTuple):
    """A room as a backbone, adapted or not, sees it: what :meth:`~haa_peft.model.xrir.XRIR.encode` gives.

    Attributes
    ----------
    panorama : (3 or more, h, w) m at the network's resolution.
    rirs, positions : (R, 9600) and (P, 3) m, as measured.
    receiver, views : (C,) and (P, C) what is seen from the receiver and from the positions.
    keys : (R, C) the references' vectors, or (R, 0) where references are encoded as aligned to each target.
    features : (P, 3 or 19) of the positions; None where they are computed when needed.
    weights : :class:`~haa_peft.adapters.weights.RoomWeights` that it was encoded with and is to be predicted with; None
        where a backbone has one room's at a time.
    levels : :class:`Levels` that predicted RIRs are given; None leaves them as they are.
    """

    panorama: Tensor
    rirs: Tensor
    positions: Tensor
    receiver: Tensor
    views: Tensor
    keys: Tensor
    features: Tensor | None = None
    weights: Any = None
    levels: Any = None

    def targets(
        self, rows: Tensor, references: Tensor, values: Tensor | None = None, audio: Tensor | None = None
    ) -> Targets:
        """Positions of the room itself as targets.

        Parameters
        ----------
        rows, references : (B,) rows of ``positions``, and (B, K) rows below R.
        values, audio : as in :class:`Targets`.
        """
        features = None if self.features is None else self.features[rows]
        return Targets(self.positions[rows], references, self.views[rows], features, values, audio)


class Targets(NamedTuple):
    """Positions to predict at, and what is known there before.

    Attributes
    ----------
    positions : (B, 3) m from the receiver.
    references : (B, K) rows of the encoded room's references.
    views, features : (B, C) and (B, 3 or 19) as in :class:`EncodedRoom`; computed unless given.
    values : (B, K, 63, 310) of the references aligned to the targets (:meth:`~haa_peft.model.xrir.XRIR.values`), or
        their sums over frequency (B, K, 1, 310); computed unless given.
    audio : (B, K, F) features of the aligned references, where they are encoded so; computed unless given.
    """

    positions: Tensor
    references: Tensor
    views: Tensor | None = None
    features: Tensor | None = None
    values: Tensor | None = None
    audio: Tensor | None = None


Asked = tuple[EncodedRoom, Targets]
"""A room as encoded, and what is asked there."""
