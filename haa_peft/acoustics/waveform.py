"""From a predicted magnitude to a waveform: Griffin-Lim with a phase that the query decides."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from haa_peft.acoustics.spectrogram import HOP, N_FFT, RIR_LENGTH, WINDOW

ITERATIONS = 32
MOMENTUM = 0.99


def query_seeds(positions: np.ndarray, seed: int) -> list[int]:
    """One seed for each position (N, 3) in metres, from its millimetres and ``seed``: repeatable in any order."""
    return [zlib.crc32(f"{seed}:{x:.3f},{y:.3f},{z:.3f}".encode()) for x, y, z in np.asarray(positions) + 0.0]


def random_phases(seeds: list[int], shape: tuple[int, int]) -> Tensor:
    """Unit phasors (N, *shape), each row from its own seed."""
    phase = np.stack([np.random.default_rng(seed).random(shape, dtype=np.float32) for seed in seeds])
    return torch.polar(torch.ones(phase.shape), torch.from_numpy(2 * np.pi * phase))


def griffin_lim(magnitudes: Tensor, phases: Tensor, length: int = RIR_LENGTH) -> Tensor:
    """Waveforms whose STFT has about the given magnitudes, (N, 63, 310) -> (N, length).

    The published reconstruction: 32 iterations of fast Griffin-Lim (Perraudin et al., 2013) with momentum 0.99 as
    torchaudio runs it, but with the starting phase given, so that it is repeatable and batches do not matter.
    """
    window = torch.hann_window(WINDOW, device=magnitudes.device)
    momentum = MOMENTUM / (1 + MOMENTUM)
    phases = phases.to(magnitudes.device)
    previous = torch.zeros_like(phases)
    for _ in range(ITERATIONS):
        signal = torch.istft(magnitudes * phases, N_FFT, HOP, WINDOW, window, length=length)
        rebuilt = torch.stft(signal, N_FFT, HOP, WINDOW, window, return_complex=True)
        phases = rebuilt - previous * momentum
        phases = phases / (phases.abs() + 1e-16)
        previous = rebuilt
    return torch.istft(magnitudes * phases, N_FFT, HOP, WINDOW, window, length=length)
