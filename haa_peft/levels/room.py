"""Levels of a room's RIRs at any position, from its measurements, and RIRs with these levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import Geometry, is_hidden
from haa_peft.levels.cells import OCTAVES, SPANS, cell_levels, levels_of_octaves, octaves, with_gains
from haa_peft.levels.process import NAMES, Parameters, Places, Process, fit, sphere

CANDIDATES = ("process", "average", "network")
"""Levels are blended of the process, an average of the measurements' energies by distance, and what is predicted."""
PRIOR_SHARES = np.array([0.5, 0.25, 0.25])
PRIOR_WEIGHT = 10
"""Measurements that the prior shares count as."""
GROUPS = (slice(0, 1), slice(1, 5), slice(5, SPANS))
"""Spans that are blended alike: direct sound, up to 50 ms, later."""
RATE = 2.127
"""Of the average, per metre; twice the inverse distance between neighbouring measurements where that is more."""
REACH = 4.0
"""Such distances outside the measurements at which nothing is left of the process."""
LARGEST_ERROR_DB = 10.0
"""Errors of left-out levels count no more."""
EVERYWHERE = 500
"""Directions among which the loudest is sought."""
SAME = 0.02
"""Metres; measurements that are closer say nothing of how far apart others are."""
HEAVY = 1e3
"""Weight of shares' adding up to one."""
LARGEST_STORED = {"axis": 1.001, "strength": 10.0, "logs": 10.0, "shares": 1.001}
"""Of what is stored, in magnitude: components of unit vectors, a device's strength, standard deviations of what priors
say, and parts of one."""


@dataclass(frozen=True)
class RoomLevels:
    """What is known of the levels in a room.

    Attributes
    ----------
    process : fitted to the measurements.
    shares : (3, 3) of ``CANDIDATES`` in the spans of each of ``GROUPS``.
    receiver, geometry : in room coordinates, (3,) m, for what the receiver does not see.
    others : the same at the room's other receivers, if it has several.
    """

    process: Process
    shares: np.ndarray
    receiver: np.ndarray
    geometry: Geometry
    others: tuple[RoomLevels, ...] = ()

    @property
    def at_receivers(self) -> tuple[RoomLevels, ...]:
        """Levels at each receiver, one after the other."""
        return (self, *self.others)

    @property
    def positions(self) -> np.ndarray:
        """Of the measurements, (R, 3) m from the receiver."""
        return self.process.places.positions.numpy()

    def places(self, positions: np.ndarray) -> Places:
        """Positions (N, 3) m from the receiver, and which it does not see."""
        return Places.of(positions, is_hidden(self.geometry, self.receiver, self.receiver + positions))

    def seeing(self, rows: np.ndarray) -> RoomLevels:
        """The same with some of the measurements alone, (R,) bool; hyperparameters and shares stay."""
        own, keep = self.process, torch.from_numpy(rows)
        places = Places(own.places.positions[keep], own.places.hidden[keep])
        return dataclasses.replace(self, process=Process(own.parameters, places, own.levels[..., keep]))

    def candidates(self, positions: np.ndarray, left_out: np.ndarray | None = None) -> list[np.ndarray]:
        """Levels (N, 8, 7) dB after the process and after the average.

        Parameters
        ----------
        positions : (N, 3) m from the receiver.
        left_out : (R,) bool, measurements that are not to be seen.
        """
        seen = slice(None) if left_out is None else ~left_out
        measured = self.process.levels.permute(2, 0, 1).numpy()
        told = self.process.predict(self.places(positions), left_out)
        return [told, average(positions, self.positions[seen], measured[seen])]

    def at(self, positions: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Levels (N, 8, 7) dB at positions (N, 3) m from the receiver, where a network predicts (N, 8, 7) dB."""
        process, averaged = self.candidates(positions)
        outside = np.clip(distance_outside(positions, self.positions) / REACH, 0, 1)[:, None, None]
        return (1 - outside) * self.weighted(process, averaged, predicted) + outside * (averaged + predicted) / 2

    def weighted(self, *candidates: np.ndarray) -> np.ndarray:
        """Levels (N, 8, 7) dB of those of ``CANDIDATES``, (N, 8, 7) dB each, by their shares."""
        shares = np.concatenate([np.tile(row, (len(range(SPANS)[group]), 1)) for row, group in
                                 zip(self.shares, GROUPS, strict=True)])  # fmt: skip
        return np.einsum("gc,cngb->ngb", shares, np.stack(candidates))

    def correct(self, rirs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """RIRs (N, 9600) float32 that a network predicts at positions (N, 3) m from the receiver, with these levels."""
        distance = np.linalg.norm(positions, axis=1)
        bands = octaves(rirs)
        predicted = levels_of_octaves(bands, distance)
        return with_gains(bands, distance, self.at(positions, predicted) - predicted)

    def directivity(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Level of the direct sound and its standard deviation in octaves, (N, 7) dB each, re the loudest direction.

        Parameters
        ----------
        directions : unit vectors (N, 3) from the receiver, taken at the measurements' median distance and in sight.
        """
        distance = float(np.median(np.linalg.norm(self.positions, axis=1)))
        everywhere, asked = (
            Places.of(distance * rays, np.zeros(len(rays))) for rays in (sphere(EVERYWHERE).numpy(), directions)
        )
        loudest = self.process.predict(everywhere)[:, 0].max(axis=0)
        return self.process.predict(asked)[:, 0] - loudest, self.process.deviation(asked)[:, 0]

    @property
    def bytes(self) -> int:
        """Of the tensors that are stored."""
        every = [tensor for single in self.at_receivers for tensor in single.tensors().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in every)

    def describe(self) -> dict[str, Any]:
        """What a card says: the device as the direct sound shows it, and what levels are blended of."""
        own = self.process.parameters
        return {
            "axis": [round(float(x), 3) for x in own.unit_axis[0]],
            "front_to_back_db": {str(band): round(float(x), 1) for band, x in zip(OCTAVES, own.beam[0], strict=True)},
            "shares": [dict(zip(CANDIDATES, map(float, row.round(3)), strict=True)) for row in self.shares],
            **({"others": [single.describe() for single in self.others]} if self.others else {}),
        }

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: the device's axis (8, 3) and strength (8,), hyperparameters (8, 7), shares (3, 3)."""
        own = self.process.parameters
        tensors = {"axis": own.unit_axis, "strength": own.strength.abs(), "logs": own.logs}
        return {**tensors, "shares": torch.from_numpy(self.shares)}

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, Tensor], rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray,
        geometry: Geometry, where: str,
    ) -> RoomLevels:  # fmt: skip
        """The inverse of :meth:`tensors`, with the measurements that they were fitted to.

        Parameters
        ----------
        tensors : as stored.
        rirs, positions : (R, 9600) at 22 050 Hz and (R, 3) m from the receiver.
        receiver, geometry : as the attributes.
        where : what an error begins with.

        Raises
        ------
        InputError
            When a tensor is missing, of another shape, or not finite.
        """
        shapes = {"axis": (SPANS, 3), "strength": (SPANS,), "logs": (SPANS, len(NAMES)), "shares": (3, 3)}
        for name, shape in shapes.items():
            tensor = tensors.get(name)
            fits = tensor is not None and tuple(tensor.shape) == shape and tensor.is_floating_point()
            most = LARGEST_STORED[name]
            if tensor is None or not fits or not bool((tensor.abs() <= most).all()):
                found = None if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
                raise InputError(f"{where} has {name} of {found} but it must be {shape}, real and within {most:g}; "
                                 "restore or retrain the adapter")  # fmt: skip
        units = tensors["axis"].double().norm(dim=-1)
        if not bool(((units - 1).abs() < 1e-3).all()) or not bool((tensors["shares"] >= 0).all()):
            raise InputError(f"{where}: axes are no unit vectors or shares negative; restore or retrain the adapter")
        axis, strength, logs, shares = (tensors[name].double() for name in shapes)
        known = cls._measured(rirs, positions, receiver, geometry)
        return cls(Process(Parameters(axis, strength, logs), *known), shares.numpy(), receiver, geometry)

    @classmethod
    def fit(
        cls, rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, geometry: Geometry,
        predicted: np.ndarray, left_out: Sequence[np.ndarray],
    ) -> RoomLevels:  # fmt: skip
        """Fit the process, and blend by how well levels of measurements that are left out are told.

        Parameters
        ----------
        rirs, positions : (R, 9600) at 22 050 Hz and (R, 3) m from the receiver.
        receiver, geometry : as the attributes.
        predicted : (R, 8, 7) dB that a network predicts where it is not given the measurements left out with each.
        left_out : sets of measurements that are left out together, (R,) bool each; none for the prior shares.
        """
        places, levels = cls._measured(rirs, positions, receiver, geometry)
        found = cls(fit(levels.permute(2, 0, 1).numpy(), places), np.tile(PRIOR_SHARES, (3, 1)), receiver, geometry)
        if not left_out:
            return found
        errors = np.zeros((len(CANDIDATES), *predicted.shape))
        for out in left_out:
            told = [*found.candidates(positions[out], out), predicted[out]]
            errors[:, out] = np.stack(told) - cell_levels(rirs[out], np.linalg.norm(positions[out], axis=1))
        errors = errors.clip(-LARGEST_ERROR_DB, LARGEST_ERROR_DB)
        shares = np.stack([best_shares(errors[:, :, group]) for group in GROUPS])
        return cls(found.process, shares, receiver, geometry)

    @staticmethod
    def _measured(
        rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, geometry: Geometry
    ) -> tuple[Places, Tensor]:
        """Where measurements were made, and their levels (8, 7, R) dB."""
        levels = cell_levels(rirs, np.linalg.norm(positions, axis=1))
        hidden = is_hidden(geometry, receiver, receiver + positions)
        return Places.of(positions, hidden), torch.from_numpy(levels).permute(1, 2, 0)


def average(positions: np.ndarray, measured: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Levels (N, ...) dB of the average energy of levels (R, ...) dB, weights falling with distance.

    ``positions`` (N, 3) and ``measured`` (R, 3) are in metres.
    """
    apart = np.linalg.norm(positions[:, None] - measured, axis=-1)
    rate = max(RATE, 2 / spacing(measured))
    weights = np.exp(-rate * (apart - apart.min(axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    return 10 * np.log10(np.einsum("nr,r...->n...", weights, 10 ** (levels / 10)))


def spacing(positions: np.ndarray) -> float:
    """Median distance in metres from each position (R, 3) to the nearest other one; 1 where there is none."""
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    nearest = np.where(apart < SAME, np.inf, apart).min(axis=1)
    return float(np.median(nearest)) if np.isfinite(nearest).all() else 1.0


def distance_outside(positions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """How far positions (N, 3) m lie outside the convex hull of the measured (R, 3) m, in spacings of these, (N,)."""
    from scipy.optimize import nnls

    corners = np.vstack([measured.T, np.full(len(measured), HEAVY)])
    return np.array([nnls(corners, np.append(place, HEAVY))[1] for place in positions]) / spacing(measured)


def best_shares(errors: np.ndarray) -> np.ndarray:
    """Shares (C,), none negative and one together, that make the mean squared error small.

    Parameters
    ----------
    errors : (C, R, ...) dB of candidates at R measurements that are left out.
    """
    from scipy.optimize import nnls

    rows = errors.reshape(len(errors), -1)
    square = rows @ rows.T / rows.shape[1]
    square *= errors.shape[1] * len(square) / np.trace(square)
    root = np.linalg.cholesky(square + 1e-9 * np.eye(len(square)))
    pull = np.sqrt(PRIOR_WEIGHT)
    system = np.vstack([root.T, pull * np.eye(len(square)), np.full(len(square), HEAVY)])
    wanted = np.concatenate([np.zeros(len(square)), pull * PRIOR_SHARES, [HEAVY]])
    shares, _ = nnls(system, wanted)
    return shares / shares.sum()
