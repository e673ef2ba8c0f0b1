"""From a predicted magnitude to a waveform: Griffin-Lim with a phase that the query decides."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from haa_peft.acoustics.spectrogram import (
    BINS,
    BLOCK,
    HOP,
    N_BINS,
    N_BLOCKS,
    N_FRAMES,
    RIR_LENGTH,
    WINDOW,
    analyse,
    transform_matrices,
)

ITERATIONS = 32
MOMENTUM = 0.99
TINY = 1e-30
"""Keeps the phase of a bin of magnitude zero finite."""
ROWS_AT_ONCE = 16
"""RIRs reconstructed together on a CPU: what fits its caches."""


def query_seeds(positions: np.ndarray, seed: int) -> list[int]:
    """One seed for each position (N, 3) in metres, from its millimetres and ``seed``: repeatable in any order."""
    return [zlib.crc32(f"{seed}:{x:.3f},{y:.3f},{z:.3f}".encode()) for x, y, z in np.asarray(positions) + 0.0]


def random_phases(seeds: list[int]) -> Tensor:
    """Starting phases in radians, (N, 63, 310), each row from its own seed."""
    turns = np.stack([np.random.default_rng(seed).random((N_BINS, N_FRAMES), dtype=np.float32) for seed in seeds])
    return torch.from_numpy(2 * np.pi * turns)


def griffin_lim(magnitudes: Tensor, phases: Tensor) -> Tensor:
    """Waveforms whose spectrogram has about the given magnitudes.

    The published reconstruction: 32 iterations of fast Griffin-Lim (Perraudin et al., 2013) with momentum 0.99 as
    torchaudio runs it, but with the starting phase given, so that it is repeatable and batches do not matter.

    Parameters
    ----------
    magnitudes : (N, 63, 310). phases : (N, 63, 310) radians.

    Returns
    -------
    (N, 9600) at 22 050 Hz.
    """
    at_once = ROWS_AT_ONCE if magnitudes.device.type == "cpu" else max(1, len(magnitudes))
    with torch.autocast(magnitudes.device.type, enabled=False):
        parts = [_griffin_lim(*part) for part in zip(magnitudes.split(at_once), phases.split(at_once), strict=True)]
    return torch.cat(parts)


def _griffin_lim(magnitudes: Tensor, phases: Tensor) -> Tensor:
    momentum = MOMENTUM / (1 + MOMENTUM)
    frames_first = pad(magnitudes, (0, 0, 0, BINS - N_BINS)).transpose(1, 2).contiguous()
    phases = pad(phases, (0, 0, 0, BINS - N_BINS)).transpose(1, 2)
    real, imaginary = frames_first * phases.cos(), frames_first * phases.sin()
    previous = (torch.zeros_like(real), torch.zeros_like(real))
    for _ in range(ITERATIONS):
        blocks = synthesise(real, imaginary)
        reflect_ends(blocks)
        rebuilt = analyse(blocks)
        torch.sub(rebuilt[0], previous[0], alpha=momentum, out=real)
        torch.sub(rebuilt[1], previous[1], alpha=momentum, out=imaginary)
        previous = rebuilt
        scale = torch.mul(real, real).addcmul_(imaginary, imaginary)
        scale.clamp_min_(TINY).rsqrt_().mul_(frames_first)
        real.mul_(scale)
        imaginary.mul_(scale)
    return synthesise(real, imaginary)[..., :HOP].flatten(1)[:, HOP : HOP + RIR_LENGTH]


@lru_cache(maxsize=8)
def overlap_correction(device: torch.device, dtype: torch.dtype) -> Tensor:
    """One over the sum of the squared windows at every sample of the signal, zero outside it, (311, 32)."""
    squared = torch.hann_window(WINDOW, dtype=torch.float64).square()
    overlap = torch.zeros(N_BLOCKS, HOP, dtype=torch.float64)
    overlap[:-1] += squared[:HOP]
    overlap[1:] += squared[HOP:]
    flat = overlap.flatten()
    correction = torch.zeros_like(flat)
    correction[HOP : HOP + RIR_LENGTH] = 1 / flat[HOP : HOP + RIR_LENGTH]
    return pad(correction.view(N_BLOCKS, HOP), (0, BLOCK - HOP)).to(device, dtype)


def synthesise(real: Tensor, imaginary: Tensor) -> Tensor:
    """Least-squares signal of spectra, two of (N, 310, 64) -> (N, 311, 32) blocks; the inverse of ``analyse``."""
    *_, cosine, sine = transform_matrices(real.device, real.dtype)
    even, odd = real @ cosine, imaginary @ sine
    blocks = pad(even + odd, (0, 0, 1, 0))
    blocks[:, :-1] += (even - odd).flip(-1)
    return blocks.mul_(overlap_correction(real.device, real.dtype))


def reflect_ends(blocks: Tensor) -> None:
    """Continue a signal in blocks by its mirror image on both sides, in place, as torchaudio's Griffin-Lim does."""
    blocks[:, 0, 1:HOP] = blocks[:, 1, 1:HOP].flip(-1)
    blocks[:, 0, 0] = blocks[:, 2, 0]
    inside = RIR_LENGTH - HOP * (N_BLOCKS - 2)  # samples of the last block that belong to the signal
    blocks[:, -1, inside:HOP] = blocks[:, -1, 2 * inside - HOP - 1 : inside - 1].flip(-1)
