"""The magnitude spectrogram that xRIR reads and writes."""

import torch
from torch import Tensor

SAMPLE_RATE = 22_050
"""Hz, the rate of every RIR inside the package."""
RIR_LENGTH = 9_600
"""Samples that are kept of an RIR (0.435 s)."""
N_FFT = 124
HOP = 31
WINDOW = 62
N_BINS = N_FFT // 2 + 1
N_FRAMES = RIR_LENGTH // HOP + 1
MAGNITUDE_FLOOR_SQUARED = 1e-7
LOG_OFFSET = 1e-8


def stft(rirs: Tensor) -> Tensor:
    """Complex short-time spectra of RIRs, shape (..., T) -> (..., 63, 1 + T // 31).

    n_fft 124, hop 31, periodic Hann window of 62, centred, zeros outside the signal: the front end of the
    published xRIR code (arXiv 2504.10746).
    """
    window = torch.hann_window(WINDOW, device=rirs.device, dtype=rirs.dtype)
    spectra = torch.stft(
        rirs.reshape(-1, rirs.shape[-1]),
        N_FFT,
        HOP,
        WINDOW,
        window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return spectra.reshape(*rirs.shape[:-1], *spectra.shape[-2:])


def magnitude(rirs: Tensor) -> Tensor:
    """Magnitude spectrogram with the published floor of sqrt(1e-7), (..., 9600) -> (..., 63, 310)."""
    spectra = stft(rirs)
    power = spectra.real.square() + spectra.imag.square()
    return power.clamp_min(MAGNITUDE_FLOOR_SQUARED).sqrt()


def log_magnitude(rirs: Tensor) -> Tensor:
    """Natural logarithm of :func:`magnitude`, the network's input, (..., 9600) -> (..., 63, 310)."""
    return torch.log(magnitude(rirs) + LOG_OFFSET)


def magnitude_from_log(log_spectrogram: Tensor) -> Tensor:
    """Magnitude that a predicted log-spectrogram stands for; the inverse of :func:`log_magnitude`."""
    return torch.exp(log_spectrogram) - LOG_OFFSET
