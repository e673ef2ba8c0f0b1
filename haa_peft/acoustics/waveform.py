"""From a predicted magnitude to a waveform: Griffin-Lim from the phase of the references, or from a random one."""

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
    full_precision,
    to_blocks,
    transform_matrices,
)

ITERATIONS = 32
"""Of the published reconstruction, which starts from a random phase."""
FEWER_ITERATIONS = 16
"""From the references' phase, which is nearer: errors are a half to a third of those of the published one."""
DISTANCE_RATE = 1.5
"""Per metre: how the references' share in the phase falls with their distance from the target."""
MOMENTUM = 0.99
TINY = 1e-30
"""Keeps the phase of a bin of magnitude zero finite."""
ROWS_AT_ONCE = 8
"""RIRs reconstructed together on a CPU: what fits its caches."""


def query_seeds(positions: np.ndarray, seed: int) -> list[int]:
    """One seed for each position (N, 3) in metres, from its millimetres and ``seed``: repeatable in any order."""
    return [zlib.crc32(f"{seed}:{x:.3f},{y:.3f},{z:.3f}".encode()) for x, y, z in np.asarray(positions) + 0.0]


def random_phases(seeds: list[int]) -> Tensor:
    """Starting phases in radians, (N, 63, 310), each row from its own seed."""
    turns = np.stack([np.random.default_rng(seed).random((N_BINS, N_FRAMES), dtype=np.float32) for seed in seeds])
    return torch.from_numpy(2 * np.pi * turns)


def reference_phases(aligned: Tensor, distance: Tensor) -> Tensor:
    """Starting phases in radians, (N, 63, 310): those of the aligned references' average, the nearest counting most.

    Parameters
    ----------
    aligned : (N, K, 9600) references aligned to each target.
    distance : (N, K) m from the target.
    """
    weights = torch.softmax(-DISTANCE_RATE * distance, dim=-1).to(aligned.dtype)
    with full_precision(aligned.device):
        real, imaginary = analyse(to_blocks((weights[:, None] @ aligned)[:, 0]))
    return torch.atan2(imaginary, real)[..., :N_BINS].transpose(1, 2)


def griffin_lim(magnitudes: Tensor, phases: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Waveforms whose spectrogram has about the given magnitudes.

    With 32 iterations from a random phase it is the published reconstruction: fast Griffin-Lim (Perraudin et al., 2013)
    with momentum 0.99 as torchaudio runs it, but with the starting phase given, so that it is repeatable and batches do
    not matter.

    Parameters
    ----------
    magnitudes, phases : (N, 63, 310), the phases in radians.

    Returns
    -------
    (N, 9600) at 22 050 Hz.
    """
    at_once = ROWS_AT_ONCE if magnitudes.device.type == "cpu" else max(1, len(magnitudes))
    with full_precision(magnitudes.device):
        pieces = zip(magnitudes.split(at_once), phases.split(at_once), strict=True)
        return torch.cat([_griffin_lim(*piece, iterations) for piece in pieces])


def _griffin_lim(magnitudes: Tensor, phases: Tensor, iterations: int) -> Tensor:
    momentum = MOMENTUM / (1 + MOMENTUM)
    magnitudes = pad(magnitudes, (0, 0, 0, BINS - N_BINS)).transpose(1, 2).contiguous()
    phases = pad(phases, (0, 0, 0, BINS - N_BINS)).transpose(1, 2)
    real, imaginary = magnitudes * phases.cos(), magnitudes * phases.sin()
    previous: Tensor | None = None
    for _ in range(iterations):
        blocks = synthesise(real, imaginary)
        reflect_ends(blocks)
        # momentum belongs on the spectra; they are linear in the signal, which is a quarter as large
        real, imaginary = analyse(blocks if previous is None else torch.sub(blocks, previous, alpha=momentum))
        previous = blocks
        scale = torch.mul(real, real).addcmul_(imaginary, imaginary)
        scale.clamp_min_(TINY).rsqrt_().mul_(magnitudes)
        real.mul_(scale)
        imaginary.mul_(scale)
    return synthesise(real, imaginary)[..., :HOP].flatten(1)[:, HOP : HOP + RIR_LENGTH]


@lru_cache(maxsize=8)
def synthesis_matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine and sine matrices (64, 32) with the overlap of windows taken out, and what the last block needs more.

    Two windows overlap everywhere but in the last block, which has one; the factor (32,) is for that.
    """
    *_, cosine, sine = transform_matrices(torch.device("cpu"), torch.float64)
    squared = pad(torch.hann_window(WINDOW, dtype=torch.float64).square()[HOP:], (0, 1))  # by distance from the middle
    overlap = squared + squared.flip(0)
    overlap[HOP] = 1  # there is no such sample
    inside = torch.arange(BLOCK) < RIR_LENGTH - HOP * (N_BLOCKS - 2)
    last = torch.where(inside, overlap / squared.clamp_min(1e-12), 0)
    # a distance is a place in the frame's right block, and mirrored in its left one, where the overlap is the same
    matrices = (cosine / overlap, sine / overlap, last)
    return tuple(matrix.to(dtype).to(device) for matrix in matrices)  # type: ignore[return-value]


def synthesise(real: Tensor, imaginary: Tensor) -> Tensor:
    """Least-squares signal of spectra, two of (N, 310, 64) -> (N, 311, 32) blocks; the inverse of ``analyse``.

    The first block, before the signal, holds what its one window leaves there.
    """
    cosine, sine, last = synthesis_matrices(real.device, real.dtype)
    even, odd = real @ cosine, imaginary @ sine
    blocks = real.new_empty(len(real), N_BLOCKS, BLOCK)
    blocks[:, 0] = 0
    torch.add(even, odd, out=blocks[:, 1:])
    blocks[:, :-1, :HOP] += even.sub_(odd).flip(-1)[..., :HOP]
    blocks[:, -1] *= last
    return blocks


def reflect_ends(blocks: Tensor) -> None:
    """Mirror a signal at both ends, in place, as torchaudio's Griffin-Lim does; ``blocks`` are (N, 311, 32)."""
    blocks[:, 0, 1:HOP] = blocks[:, 1, 1:HOP].flip(-1)
    blocks[:, 0, 0] = blocks[:, 2, 0]
    inside = RIR_LENGTH - HOP * (N_BLOCKS - 2)  # samples of the last block that belong to the signal
    blocks[:, -1, inside:HOP] = blocks[:, -1, 2 * inside - HOP - 1 : inside - 1].flip(-1)
