"""The two published training losses."""

from torch import Tensor

from haa_peft.acoustics.spectrogram import magnitude_from_log

DECAY_WEIGHT = 0.01


def stft_l1_loss(log_spectrogram: Tensor, target_magnitude: Tensor, *, per_rir: bool = False) -> Tensor:
    """Mean absolute difference of predicted and true magnitudes.

    Parameters
    ----------
    log_spectrogram : (B, 63, 310) the network's output.
    target_magnitude : (B, 63, 310) true magnitudes.
    per_rir : give (B,) values instead of their mean.
    """
    error = (magnitude_from_log(log_spectrogram) - target_magnitude).abs().mean(dim=(-2, -1))
    return error if per_rir else error.mean()


def decay_curve_db(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Schroeder decay per frame in dB re its first value (B, T-1), and the energy behind it (B, T-1)."""
    energy = magnitudes.square().sum(dim=-2)
    remaining = energy.flip(-1).cumsum(-1).flip(-1)
    level = 10 * (remaining + 1e-13).log10()
    return (level - level[..., :1])[..., 1:], remaining[..., 1:]


def energy_decay_loss(log_spectrogram: Tensor, target_magnitude: Tensor, *, per_rir: bool = False) -> Tensor:
    """0.01 times the mean absolute difference of the decay curves in dB, frames without true energy left out.

    Shapes as in :func:`stft_l1_loss`. The published code has the weight inside this term too.
    """
    predicted, _ = decay_curve_db(magnitude_from_log(log_spectrogram))
    true, energy = decay_curve_db(target_magnitude)
    heard = energy > 0
    error = ((predicted - true).abs() * heard).sum(-1) / heard.sum(-1).clamp_min(1)
    error = DECAY_WEIGHT * error
    return error if per_rir else error.mean()


def training_loss(log_spectrogram: Tensor, target_magnitude: Tensor) -> Tensor:
    """Published objective per RIR, (B,): L1 on magnitudes plus 0.01 times L1 on decay curves."""
    spectral = stft_l1_loss(log_spectrogram, target_magnitude, per_rir=True)
    return spectral + energy_decay_loss(log_spectrogram, target_magnitude, per_rir=True)
