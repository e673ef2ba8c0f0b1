"""The magnitude spectrogram that xRIR reads and writes, and the transform behind it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from haa_peft.acoustics.sampling import RIR_LENGTH as RIR_LENGTH
from haa_peft.acoustics.sampling import SAMPLE_RATE as SAMPLE_RATE

N_FFT = 124
HOP = 31
WINDOW = 62
N_BINS = N_FFT // 2 + 1
N_FRAMES = RIR_LENGTH // HOP + 1
MAGNITUDE_FLOOR_SQUARED = 1e-7
LOG_OFFSET = 1e-8

N_BLOCKS = N_FRAMES + 1
BLOCK, BINS = HOP + 1, N_BINS + 1
"""Blocks of a hop and rows of bins, each with one zero behind it: multiples of 32 multiply twice as fast."""
ROWS_AT_ONCE = 32
"""RIRs transformed together on a CPU: what fits its caches."""


@lru_cache(maxsize=8)
def transform_matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosine and sine matrices of analysis (32, 64) and of synthesis (64, 32), window and scale within.

    The window is symmetric about the middle of its frame, where two blocks meet, so a frame's even part has its
    real spectrum and its odd part the imaginary one: half the multiplications of the full matrix.
    """
    distance = torch.arange(BLOCK, dtype=torch.float64)
    window = torch.hann_window(WINDOW, dtype=torch.float64)[HOP:]
    window = pad(window, (0, 1))  # at distance 31 the window is zero
    bins = torch.arange(BINS, dtype=torch.float64)
    inside = (bins < N_BINS).double()
    sign = inside * (-1) ** bins  # the middle of the window lies half a transform behind its start
    phase = 2 * math.pi / N_FFT * distance[:, None] * bins
    cosine, sine = (part * sign * window[:, None] for part in (phase.cos(), phase.sin()))
    weight = (2 - ((bins == 0) | (bins == N_BINS - 1)).double()) / N_FFT
    back = (phase.cos() * sign * weight * window[:, None]).T
    back_sine = (-phase.sin() * sign * weight * window[:, None]).T
    matrices = (cosine, -sine, back, back_sine)
    return tuple(matrix.to(dtype).contiguous().to(device) for matrix in matrices)  # type: ignore[return-value]


class _Highest:
    """Torch's precision of products, which threads share, at its highest while any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, "highest"

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_float32_matmul_precision(self._before)


HIGHEST = _Highest()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast inside the block, and no TF32 in products."""
    with torch.autocast(device.type, enabled=False), HIGHEST if device.type == "cuda" else nullcontext():
        yield


def to_blocks(rirs: Tensor) -> Tensor:
    """Hops of a signal, zeros outside it, (N, 9600) -> (N, 311, 32); frame t is blocks t and t + 1."""
    padded = pad(rirs, (HOP, N_BLOCKS * HOP - HOP - rirs.shape[-1]))
    return pad(padded.unflatten(-1, (N_BLOCKS, HOP)), (0, 1))


def analyse(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of every frame's spectrum, (N, 311, 32) -> two of (N, 310, 64), the last bin zero."""
    cosine, sine, *_ = transform_matrices(blocks.device, blocks.dtype)
    left, right = blocks.flip(-1)[:, :-1], blocks[:, 1:]
    # in the flipped left block, place j lies j samples before the middle; place 0 holds the zero
    return (right + left) @ cosine, (right - left) @ sine


def magnitude(rirs: Tensor) -> Tensor:
    """Magnitude spectrogram with the published floor of sqrt(1e-7), (..., 9600) -> (..., 63, 310).

    n_fft 124, hop 31, periodic Hann window of 62, centred, zeros outside the signal: the front end of the
    published xRIR code (arXiv 2504.10746).
    """
    rows = rirs.reshape(-1, RIR_LENGTH)
    parts = rows.split(ROWS_AT_ONCE) if rows.device.type == "cpu" else (rows,)
    with full_precision(rirs.device):
        magnitudes = torch.cat([_magnitude(part) for part in parts])
    return magnitudes.reshape(*rirs.shape[:-1], N_BINS, N_FRAMES)


def _magnitude(rirs: Tensor) -> Tensor:
    real, imaginary = analyse(to_blocks(rirs))
    power = real.square_().addcmul_(imaginary, imaginary)
    return power.clamp_min_(MAGNITUDE_FLOOR_SQUARED).sqrt_()[..., :N_BINS].transpose(1, 2).contiguous()


def log_magnitude(rirs: Tensor) -> Tensor:
    """Natural logarithm of :func:`magnitude`, the network's input, (..., 9600) -> (..., 63, 310)."""
    return magnitude(rirs).add_(LOG_OFFSET).log_()


def magnitude_from_log(log_spectrogram: Tensor) -> Tensor:
    """Magnitude (..., 63, 310) that a predicted log-spectrogram stands for; the inverse of :func:`log_magnitude`."""
    return torch.exp(log_spectrogram) - LOG_OFFSET


def energy_above_floor(power: Tensor) -> Tensor:
    """Squared magnitudes (..., 63, 310) without the floor's, which is no sound but adds up to -20 dB in a dry room."""
    return (power - MAGNITUDE_FLOOR_SQUARED).clamp_min(0)
