"""The two published training losses, and one on the audible part of decay curves."""

from typing import Any

from torch import Tensor

from haa_peft.acoustics.spectrogram import energy_above_floor, magnitude_from_log
from haa_peft.errors import InputError

DECAY_WEIGHT = 0.01


def stft_l1_loss(log_spectrogram: Tensor, target_magnitude: Tensor, *, per_rir: bool = False) -> Tensor:
    """Mean absolute difference of predicted and true magnitudes.

    Parameters
    ----------
    log_spectrogram : (B, 63, 310) the network's output.
    target_magnitude : (B, 63, 310) true magnitudes.
    per_rir : give (B,) values instead of their mean.

    Raises
    ------
    InputError
        For what are no two tensors of one such shape.
    """
    _check_pair(log_spectrogram, target_magnitude)
    error = (magnitude_from_log(log_spectrogram) - target_magnitude).abs().mean(dim=(-2, -1))
    return error if per_rir else error.mean()


def _check_pair(log_spectrogram: Any, target_magnitude: Any) -> None:
    """Raise ``InputError`` unless these are two tensors (B, F, T) of one shape."""
    for what, value in (("log_spectrogram", log_spectrogram), ("target_magnitude", target_magnitude)):
        if not isinstance(value, Tensor):
            raise InputError(f"{what} is {value!r:.60} but must be a tensor (B, 63, 310)")
        if value.ndim != 3 or not value.is_floating_point():
            raise InputError(f"{what} is {tuple(value.shape)} of {value.dtype} but must be real numbers (B, 63, 310)")
    if log_spectrogram.shape != target_magnitude.shape:
        raise InputError(
            f"log_spectrogram is {tuple(log_spectrogram.shape)} but target_magnitude {tuple(target_magnitude.shape)}; "
            "give two of one shape (B, 63, 310)"
        )


def remaining_energy(energy: Tensor) -> Tensor:
    """Schroeder's backward integral of the energy in every frame, (B, T) -> (B, T)."""
    return energy.flip(-1).cumsum(-1).flip(-1)


def decay_curve_db(energy: Tensor) -> Tensor:
    """Schroeder decay in dB re its first value, without that, from the energy in every frame: (B, T) -> (B, T-1)."""
    level = 10 * (remaining_energy(energy) + 1e-13).log10()
    return (level - level[..., :1])[..., 1:]


def energy_decay_loss(log_spectrogram: Tensor, target_magnitude: Tensor, *, per_rir: bool = False) -> Tensor:
    """0.01 times the mean absolute difference of the decay curves in dB, frames without true energy left out.

    Takes two of (B, 63, 310), gives a scalar or (B,), as :func:`stft_l1_loss`. The published code has the weight inside
    this term too.
    """
    _check_pair(log_spectrogram, target_magnitude)
    predicted, true = (
        magnitudes.square().sum(dim=-2) for magnitudes in (magnitude_from_log(log_spectrogram), target_magnitude)
    )
    heard = remaining_energy(true)[..., 1:] > 0
    error = ((decay_curve_db(predicted) - decay_curve_db(true)).abs() * heard).sum(-1) / heard.sum(-1).clamp_min(1)
    error = DECAY_WEIGHT * error
    return error if per_rir else error.mean()


def audible_decay_loss(energy: Tensor, target_energy: Tensor) -> Tensor:
    """Mean absolute difference of decay curves in dB, (B,), where each frame counts by the level that is left there.

    By the fourth root of the energy: early decay, clarity and reverberation time are read above -10, -20 and -35 dB.

    Parameters
    ----------
    energy, target_energy : (B, 310) predicted and true energy in every frame.
    """
    predicted, true = decay_curve_db(energy), decay_curve_db(target_energy)
    share = 10 ** (true / 40)
    return ((predicted - true).abs() * share).sum(-1) / share.sum(-1)


def training_loss(log_spectrogram: Tensor, target_magnitude: Tensor, audible_decay: float = 0.0) -> Tensor:
    """Objective per RIR, two of (B, 63, 310) -> (B,): published L1 on magnitudes plus 0.01 times L1 on decay curves.

    ``audible_decay`` times :func:`audible_decay_loss` is added; arguments as in :func:`stft_l1_loss`.
    """
    spectral = stft_l1_loss(log_spectrogram, target_magnitude, per_rir=True)
    loss = spectral + energy_decay_loss(log_spectrogram, target_magnitude, per_rir=True)
    if not audible_decay:
        return loss
    powers = (magnitude_from_log(log_spectrogram).square(), target_magnitude.square())
    energies = (energy_above_floor(power).sum(dim=-2) for power in powers)
    return loss + audible_decay * audible_decay_loss(*energies)
