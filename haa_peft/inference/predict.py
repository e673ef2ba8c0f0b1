"""RIRs of a backbone, adapted or not, from a room's references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from haa_peft.acoustics.spectrogram import N_BINS, N_FRAMES, RIR_LENGTH, magnitude_from_log
from haa_peft.acoustics.waveform import griffin_lim, query_seeds, random_phases
from haa_peft.backbone.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.training.objective import nearest_references

CHUNK = 64
"""Positions predicted at once; bounds memory."""


@dataclass(frozen=True)
class References:
    """What a prediction starts from.

    ``panorama`` (3, 256, 512) m; ``rirs`` (R, 9600) at 22 050 Hz; ``positions`` (R, 3) m from the receiver.
    """

    panorama: np.ndarray
    rirs: np.ndarray
    positions: np.ndarray

    @classmethod
    def of_room(cls, room: Room) -> References:
        """The training measurements of a room."""
        train = room.splits["train"]
        return cls(room.panorama, room.rirs[train], room.positions[train] - room.receiver)


@torch.no_grad()
def predict_rirs(backbone: XRIR, references: References, positions: np.ndarray, k: int, seed: int) -> np.ndarray:
    """RIRs at positions (N, 3) m from the receiver, each from its K nearest references: (N, 9600) float32.

    Griffin-Lim starts from a phase that ``seed`` and the position decide, so a position's RIR does not depend on
    what else is asked.
    """
    if not len(positions):
        return np.zeros((0, RIR_LENGTH), dtype=np.float32)
    device = backbone.time_embedder.freqs.device
    panorama = torch.from_numpy(references.panorama).to(device)
    measured = torch.from_numpy(references.rirs).to(device)
    count = len(measured)
    chosen = nearest_references(positions, references.positions, k)
    seeds = query_seeds(positions, seed)
    parts = []
    for start in range(0, len(positions), CHUNK):
        rows = slice(start, start + CHUNK)
        table = torch.from_numpy(np.concatenate([references.positions, positions[rows]])).float().to(device)
        log_spectrogram = backbone.forward_room(
            panorama,
            measured,
            table,
            torch.arange(count, len(table), device=device),
            torch.from_numpy(chosen[rows]).to(device),
        )
        magnitudes = magnitude_from_log(log_spectrogram).clamp_min(0)
        phases = random_phases(seeds[rows], (N_BINS, N_FRAMES)).to(device)
        parts.append(griffin_lim(magnitudes, phases).cpu().numpy())
    return np.concatenate(parts)
