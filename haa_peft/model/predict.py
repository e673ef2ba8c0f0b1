"""RIRs of a backbone, adapted or not, from a room's references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import RIR_LENGTH, energy_above_floor, magnitude_from_log
from haa_peft.acoustics.waveform import FEWER_ITERATIONS, griffin_lim, query_seeds, random_phases, reference_phases
from haa_peft.model.tensors import Asked, EncodedRoom, Levels, RoomTensors, Targets
from haa_peft.model.xrir import XRIR

POSITIONS_AT_ONCE = {"cpu": 16}
"""Positions predicted together, with up to eight references each: bounds memory, and on a CPU fits its caches."""
POSITIONS_ELSEWHERE = 128


class Network(Protocol):
    """A backbone, or what serves several rooms with one."""

    def predict(self, asked: Sequence[Asked]) -> Tensor:
        """Log-spectrograms (N, 63, 310) of all rooms' targets, one room after the other."""


def nearest_references(targets: np.ndarray, references: np.ndarray, k: int) -> np.ndarray:
    """Indices (N, K) of the K references (R, 3) nearest to each target (N, 3), the nearest first."""
    distance = np.linalg.norm(targets[:, None] - references, axis=-1)
    return distance.argsort(axis=1, kind="stable")[:, :k]


def positions_at_once(device: torch.device, k: int) -> int:
    """How many positions of K references to predict together on a device."""
    return max(1, POSITIONS_AT_ONCE.get(device.type, POSITIONS_ELSEWHERE) * 8 // max(8, k))


def choose_targets(room: EncodedRoom, positions: np.ndarray, k: int) -> Targets:
    """Positions (N, 3) m from the receiver, each with its K nearest references."""
    chosen = nearest_references(positions, room.positions.double().cpu().numpy(), k)
    device = room.positions.device
    return Targets(torch.from_numpy(positions).float().to(device), torch.from_numpy(chosen).to(device))


def align_references(rooms: Sequence[Asked]) -> tuple[Tensor, Tensor, Tensor]:
    """References (N, K, 9600) aligned to all rooms' targets, with the places (N, K, 3) and (N, 3) m of both."""
    places = torch.cat([room.positions[targets.references] for room, targets in rooms])
    positions = torch.cat([targets.positions for _, targets in rooms])
    rirs = torch.cat([room.rirs[targets.references] for room, targets in rooms])
    return align(rirs, places, positions), places, positions


@torch.no_grad()
def waveforms(
    log_spectrograms: Tensor, aligned: Tensor, references: Tensor, positions: Tensor, seed: int, phase: str
) -> np.ndarray:
    """RIRs (N, 9600) float32 of predicted log-spectrograms, by Griffin-Lim.

    Parameters
    ----------
    log_spectrograms : (N, 63, 310).
    aligned, references, positions : (N, K, 9600), (N, K, 3) m and (N, 3) m, as :func:`align_references` gives them.
    seed : of a random phase; it and the position decide, so that a position's RIR does not depend on what else is
        asked.
    phase : ``references`` starts from their phase, and what lies at the spectrogram's floor is silent; ``random`` is as
        published.
    """
    magnitudes = magnitude_from_log(log_spectrograms).clamp_min_(0)
    if phase == "random":
        phases = random_phases(query_seeds(positions.double().cpu().numpy(), seed)).to(magnitudes.device)
        return griffin_lim(magnitudes, phases).cpu().numpy()
    phases = reference_phases(aligned, (references - positions[:, None]).norm(dim=-1))
    heard = energy_above_floor(magnitudes.square_()).sqrt_()
    return griffin_lim(heard, phases, FEWER_ITERATIONS).cpu().numpy()


@torch.no_grad()
def rirs_of(network: Network, asked: Sequence[Asked], seed: int, phase: str) -> np.ndarray:
    """RIRs (N, 9600) float32 of all rooms' targets, one room after the other.

    Parameters
    ----------
    network : on the rooms' device.
    asked : all with the same K.
    seed, phase : as in :func:`waveforms`.
    """
    aligned = align_references(asked)
    rirs = waveforms(network.predict(asked), *aligned, seed, phase)
    ends = np.cumsum([len(targets.positions) for _, targets in asked])[:-1]
    for (room, targets), rows in zip(asked, np.split(np.arange(len(rirs)), ends), strict=True):
        if room.levels is not None:
            rirs[rows] = room.levels.correct(rirs[rows], targets.positions.double().cpu().numpy())
    return rirs


def stream_rirs(
    network: Network, room: EncodedRoom, positions: np.ndarray, k: int, seed: int, phase: str
) -> Iterator[np.ndarray]:
    """RIRs (n, 9600) float32 in one room, some positions after the other.

    Parameters
    ----------
    network : that the room was encoded by.
    room : all its references may be used.
    positions : (N, 3) m from the receiver.
    k : nearest references that each is predicted from.
    seed, phase : as in :func:`waveforms`.
    """
    at_once = positions_at_once(room.rirs.device, k)
    for start in range(0, len(positions), at_once):
        targets = choose_targets(room, positions[start : start + at_once], k)
        yield rirs_of(network, [(room, targets)], seed, phase)


@torch.no_grad()
def predict_rirs(
    backbone: XRIR,
    room: RoomTensors,
    positions: np.ndarray,
    k: int,
    seed: int,
    phase: str = "references",
    levels: Levels | None = None,
) -> np.ndarray:
    """RIRs (N, 9600) float32 by a backbone with the adapter that it carries.

    Parameters
    ----------
    backbone : on the device that computes.
    room : all its references may be used.
    positions, k, seed, phase : as in :func:`stream_rirs`.
    levels : that they are given; as predicted without.
    """
    (encoded,) = backbone.encode([room.to(backbone.device)])
    parts = stream_rirs(backbone, encoded._replace(levels=levels), positions, k, seed, phase)
    return np.concatenate([np.zeros((0, RIR_LENGTH), dtype=np.float32), *parts])
