"""One configuration of a room, ready for the model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.geometry.channels import CHANNELS, MATERIALS
from haa_peft.geometry.panorama import DepthMap, Geometry, render_panorama
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.splits import NAMES, farthest_points

NAME_PART = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Pattern of a room's or a configuration's name."""
SIMULATED = "simulated"
"""The room whose configurations are simulated by number."""
NEAREST = 0.01
"""Metres; closer than this, two positions are one."""


@dataclass(frozen=True)
class Loan:
    """Who borrowed, as it was before, and from whom."""

    borrower: Room
    lender: Room


@dataclass(frozen=True)
class Room:
    """RIRs of one configuration with their positions, geometry and splits.

    Attributes
    ----------
    room, configuration : names; together, ``room/configuration``, they name an adapter.
    rirs : (N, 9600) float32 at 22 050 Hz, divided by ``scale``.
    positions : (N, 3) metres in room coordinates.
    receiver : (3,) metres in room coordinates; HAA's loudspeaker (reciprocity), otherwise the microphone.
    geometry : the planes of the room, or a depth map around the receiver.
    splits : ``train``, ``valid`` and ``test`` indices of positions, disjoint.
    scale : the largest magnitude of the training RIRs as measured.
    source, licence : where the data come from, as far as known.
    loan : set where training measurements are another configuration's, converted (:mod:`haa_peft.borrowing`).
    fit : gives the geometry of such a room with other training measurements, where geometry follows from them.
    viewpoint : (3,) metres in room coordinates, where the geometry encoder's image of the room is taken; None for the
        receiver.
    channels : what the panorama shows of surfaces beside their coordinates, of ``CHANNELS``.
    recorded : gives the RIRs (N, T) as they are stored, their first 2 s unless other seconds are given, and their rate
        in Hz; None where nobody has them.
    others : the same configuration at its other receivers, each with its own measurements, in the same unit
        (:func:`together`); none where there is one receiver.
    findings : what :func:`haa_peft.findings.checked` found in the measurements, its
        :class:`~haa_peft.findings.finding.Finding`.
    """

    room: str
    configuration: str
    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    geometry: Geometry
    splits: dict[str, np.ndarray]
    scale: float
    source: str = "unknown"
    licence: str = "unknown"
    loan: Loan | None = None
    viewpoint: np.ndarray | None = None
    fit: Callable[[Room], Geometry] | None = None
    channels: tuple[str, ...] = ()
    recorded: Callable[..., tuple[np.ndarray, int]] | None = None
    findings: tuple[Any, ...] = ()
    others: tuple[Room, ...] = ()

    @property
    def name(self) -> str:
        """``room/configuration``."""
        return f"{self.room}/{self.configuration}"

    @property
    def at_receivers(self) -> tuple[Room, ...]:
        """The room at each of its receivers, one after the other."""
        return (dataclasses.replace(self, others=()), *self.others) if self.others else (self,)

    def count(self, split: str) -> int:
        """How many measurements a split has, of all receivers."""
        return sum(len(single.splits[split]) for single in self.at_receivers)

    def measured(self, split: str) -> np.ndarray:
        """RIRs (N, 9600) of a split, of one receiver after the other."""
        return np.concatenate([single.rirs[single.splits[split]] for single in self.at_receivers])

    def alone(self, what: str) -> Room:
        """The room itself; raises ``InputError``, which begins with ``what``, if it has several receivers."""
        if self.others:
            raise InputError(
                f"{what} takes one receiver, and {self.name} has {len(self.at_receivers)}; give one with --receiver 0 "
                f"to {len(self.others)}, or load_room(..., receiver=...)"
            )
        return self

    @property
    def own(self) -> np.ndarray:
        """Indices (M,) of the training measurements that were made in this configuration."""
        return self.without_borrowed().splits["train"]

    @property
    def borrowed(self) -> int:
        """How many of the training measurements were not."""
        return len(self.splits["train"]) - len(self.own)

    def without_borrowed(self) -> Room:
        """The same room with its own training measurements alone."""
        return self if self.loan is None else self.loan.borrower

    @property
    def surfaces(self) -> Surfaces | None:
        """The planes of the room; None where only what is seen from the receiver is known."""
        return self.geometry if isinstance(self.geometry, Surfaces) else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that training and evaluation see of the room."""
        digest = hashlib.sha256()
        if isinstance(self.geometry, DepthMap):
            shape = [self.geometry.depth, *self.geometry.bounds()]
        else:
            shape = [self.geometry.points, self.geometry.is_triangle]
        arrays = [self.rirs, self.positions, self.receiver, *shape]
        arrays += [] if self.viewpoint is None else [self.viewpoint]
        if "materials" in self.channels and self.geometry.materials is not None:
            arrays.append(self.geometry.materials)
        if "normals" in self.channels and isinstance(self.geometry, DepthMap) and self.geometry.normals is not None:
            arrays.append(self.geometry.normals)
        for array in (*arrays, *(self.splits[split] for split in NAMES)):
            digest.update(f"{array.dtype}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        for single in self.others:
            digest.update(single.fingerprint.encode())
        return digest.hexdigest()

    @cached_property
    def panorama(self) -> np.ndarray:
        """(3, 256, 512) float32 coordinates in metres that are seen from the receiver, which is the origin.

        With :attr:`channels`, those of :func:`~haa_peft.geometry.panorama.surface_channels` lie behind.
        """
        return render_panorama(self.geometry, self.receiver, self.channels)

    @cached_property
    def view(self) -> np.ndarray:
        """The same (3, 256, 512) m as seen from the viewpoint; coordinates count from the receiver there too."""
        if self.viewpoint is None:
            return self.panorama
        view = render_panorama(self.geometry, self.viewpoint, self.channels)
        view[:3] += (self.viewpoint - self.receiver).astype(np.float32)[:, None, None]
        return view

    def with_channels(self, channels: Sequence[str]) -> Room:
        """The same room whose panorama shows these ``CHANNELS`` too.

        Raises ``InputError`` if materials are asked for and the geometry has none.
        """
        every = tuple(name for name in CHANNELS if name in (*self.channels, *channels))
        if every == self.channels:
            return self
        if "materials" in every and self.geometry.materials is None:
            raise InputError(
                f"{self.name}: channels materials need a geometry with materials, and it has none of "
                f'{", ".join(MATERIALS)}; give surfaces a "material", or a mesh "materials": {{NAME IN FILE: CLASS}}'
            )
        loan = self.loan and dataclasses.replace(self.loan, borrower=self.loan.borrower.with_channels(channels))
        others = tuple(single.with_channels(channels) for single in self.others)
        return dataclasses.replace(self, channels=every, loan=loan, others=others)

    def with_shots(self, shots: int) -> Room:
        """The same room with only ``shots`` of its training positions, well spread, and scaled by them alone.

        Of several receivers, each keeps so many. Raises ``InputError`` unless it has so many.
        """
        if self.others:
            return together([single.with_shots(shots) for single in self.at_receivers])
        train = self.splits["train"]
        if not 1 <= shots <= len(train):
            raise InputError(
                f"--shots is {shots} but {self.name} has {len(train)} training positions; give 1 to {len(train)}"
            )
        if shots == len(train):
            return self
        kept = train[farthest_points(self.positions[train], shots)]
        return self.with_splits({**self.splits, "train": kept})

    def with_splits(self, splits: dict[str, np.ndarray]) -> Room:
        """The same room with other splits, indices (M,) each, scaled by their training measurements."""
        self.alone("a change of splits")
        peak = float(np.abs(self.rirs[splits["train"]]).max())
        return dataclasses.replace(self, rirs=self.rirs / peak, scale=self.scale * peak, splits=splits).refitted()

    def refitted(self) -> Room:
        """The same room with the geometry that its present training measurements give, if it follows from them."""
        return self if self.fit is None else dataclasses.replace(self, geometry=self.fit(self))


def together(singles: Sequence[Room]) -> Room:
    """One room of several receivers, whose RIRs are all divided by the loudest that any of them has in training.

    Parameters
    ----------
    singles : the same configuration at each receiver.
    """
    scale = max(single.scale for single in singles)
    first, *others = (
        dataclasses.replace(single, rirs=(single.rirs * (single.scale / scale)).astype(np.float32), scale=scale)
        if single.scale != scale
        else single
        for single in singles
    )
    return dataclasses.replace(first, others=tuple(others))
