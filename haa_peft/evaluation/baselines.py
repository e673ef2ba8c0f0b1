"""What needs no learning."""

from __future__ import annotations

import numpy as np
import torch

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.spectrogram import MAGNITUDE_FLOOR_SQUARED, energy_above_floor, magnitude
from haa_peft.model.heads import KNOTS, START_RATE, START_SPREADING, energy_gains
from haa_peft.model.phases import PHASES
from haa_peft.model.predict import nearest_references, waveforms
from haa_peft.rooms.room import Room


def baselines(room: Room, k: int, split: str = "test", seed: int = 0, phase: str = PHASES[0]) -> dict[str, np.ndarray]:
    """RIRs (N, 9600) at a split's positions of nearest neighbour, of linear and of energy interpolation.

    Parameters
    ----------
    room : with training measurements.
    k : nearest training measurements that are interpolated.
    split : whose positions.
    seed, phase : of the waveforms of energy interpolation (:func:`~haa_peft.model.predict.waveforms`).
    """
    train = room.splits["train"]
    rirs, places = room.rirs[train], room.positions[train] - room.receiver
    positions = room.positions[room.splits[split]] - room.receiver
    chosen = nearest_references(positions, places, k)
    return interpolations(rirs, places, chosen, positions, seed, phase)


def interpolations(
    rirs: np.ndarray, places: np.ndarray, chosen: np.ndarray, positions: np.ndarray, seed: int, phase: str
) -> dict[str, np.ndarray]:
    """The baselines (N, 9600) by name, from given references of each position.

    Parameters
    ----------
    rirs, places : (R, 9600) references and their positions (R, 3) m from the receiver.
    chosen : (N, K) which of them each position is made of, the nearest first.
    positions : (N, 3) m from the receiver.
    seed, phase : of the waveforms of energy interpolation (:func:`~haa_peft.model.predict.waveforms`).
    """
    return {
        "nearest": linear_interpolation(rirs, places, chosen[:, :1], positions),
        "linear": linear_interpolation(rirs, places, chosen, positions),
        "energy": energy_interpolation(rirs, places, chosen, positions, seed, phase),
    }


def linear_interpolation(rirs: np.ndarray, places: np.ndarray, chosen: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Averages of aligned references, weighted by inverse distance, (N, 9600).

    Parameters
    ----------
    rirs, places : (R, 9600) references and their positions (R, 3) m from the receiver.
    chosen : (N, K) which of them each position is made of.
    positions : (N, 3) m from the receiver.
    """
    rirs, places = rirs[chosen], places[chosen]
    distance = np.linalg.norm(places - positions[:, None], axis=-1)
    weights = 1 / np.maximum(distance, 1e-6)
    weights /= weights.sum(axis=1, keepdims=True)
    aligned = align(
        torch.from_numpy(rirs), torch.from_numpy(places).float(), torch.from_numpy(np.asarray(positions)).float()
    ).numpy()
    return np.einsum("nk,nkt->nt", weights, aligned).astype(np.float32)


def energy_interpolation(
    rirs: np.ndarray,
    places: np.ndarray,
    chosen: np.ndarray,
    positions: np.ndarray,
    seed: int = 0,
    phase: str = PHASES[0],
) -> np.ndarray:
    """Averages of aligned references' energies, as the bundled backbone makes them untrained, (N, 9600).

    Parameters
    ----------
    rirs, places, chosen, positions : (R, 9600), (R, 3), (N, K) and (N, 3), as for :func:`linear_interpolation`.
    seed, phase : as for :func:`~haa_peft.model.predict.waveforms`.
    """
    heard, at = torch.from_numpy(rirs[chosen]), torch.from_numpy(np.asarray(positions)).float()
    where = torch.from_numpy(places[chosen]).float()
    aligned = align(heard, where, at)
    nothing = torch.zeros(*chosen.shape, len(KNOTS))
    gains = energy_gains(nothing, nothing, torch.tensor(START_RATE), torch.tensor(START_SPREADING), at, where)
    energy = (gains[:, :, None] * energy_above_floor(magnitude(aligned).square())).sum(dim=1)
    logs = (energy + MAGNITUDE_FLOOR_SQUARED).log() / 2
    return waveforms(logs, aligned, where, at, seed, phase)
