import numpy as np
import pytest
import torch

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import audible_decay_loss, energy_decay_loss, stft_l1_loss, training_loss
from haa_peft.acoustics.spectrogram import log_magnitude, magnitude
from tests.conftest import PARITY

CASE = {name: torch.from_numpy(value) for name, value in np.load(PARITY / "xrir_case_a.npz").items()}


def test_alignment_reproduces_the_published_code():
    aligned = align(CASE["reference_rirs"], CASE["reference_positions"], CASE["target_position"])
    torch.testing.assert_close(aligned[:, 0], CASE["expected_aligned_first_reference"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("reference", "target"), [(2.0, 5.0), (5.0, 2.0)])
def test_direct_sound_moves_to_the_targets_distance(reference, target):
    rir = torch.zeros(1, 9600)
    arrival = {d: round(d / 343 * 22_050) for d in (reference, target)}
    rir[0, arrival[reference]] = 1 / reference
    moved = align(rir, torch.tensor([[reference, 0.0, 0.0]]), torch.tensor([0.0, target, 0.0]))
    assert abs(int(moved.argmax()) - arrival[target]) <= 1
    assert float(moved.max()) == pytest.approx(1 / target, rel=1e-5)


def test_spectrogram_and_losses_reproduce_the_published_code():
    true = magnitude(CASE["target_rir"][:, 0])
    torch.testing.assert_close(true, CASE["expected_target_spectrogram"], rtol=1e-5, atol=1e-7)
    log_spectrogram = CASE["expected_log_spectrogram"]
    spectral, decay = stft_l1_loss(log_spectrogram, true), energy_decay_loss(log_spectrogram, true)
    assert float(spectral) == pytest.approx(float(CASE["expected_stft_l1"]), rel=1e-4)
    assert float(decay) == pytest.approx(float(CASE["expected_decay_loss"]), rel=1e-4)
    assert float(training_loss(log_spectrogram, true).mean()) == pytest.approx(float(spectral + decay), rel=1e-6)


def test_spectrogram_is_the_short_time_fourier_transform():
    """Against torch's, in double precision; and single precision is as good as torch's there."""
    rirs = CASE["reference_rirs"][0]
    window = torch.hann_window(62, dtype=torch.float64)
    spectra = torch.stft(rirs.double(), 124, 31, 62, window, pad_mode="constant", return_complex=True)
    expected = spectra.abs().square().clamp_min(1e-7).sqrt()
    torch.testing.assert_close(magnitude(rirs.double()), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_magnitude(rirs), torch.log(expected + 1e-8).float(), rtol=0, atol=1e-4)
    assert magnitude(rirs[None, :2]).shape == (1, 2, 63, 310)


def test_audible_decay_loss_of_exponential_decays():
    """Curves of 60 dB in 0.3 s and in 0.33 s, whose difference grows while the level falls."""
    time = torch.arange(310, dtype=torch.float64) * 31 / 22_050
    energy = torch.stack([10 ** (-6 * time / t60) for t60 in (0.33, 0.3)])
    level = torch.stack([-60 * time / t60 for t60 in (0.33, 0.3)])
    share = 10 ** (level[1] / 40)
    expected = float(((level[0] - level[1]).abs() * share)[1:].sum() / share[1:].sum())
    assert float(audible_decay_loss(energy[:1], energy[1:])) == pytest.approx(expected, rel=0.02)
    assert float(audible_decay_loss(3 * energy[1:], energy[1:])) == pytest.approx(0, abs=1e-6)  # a level is no decay
    true = magnitude(CASE["target_rir"][:, 0])
    logs = CASE["expected_log_spectrogram"]
    more = training_loss(logs, true, audible_decay=0.5) - training_loss(logs, true)
    energies = (((magnitudes**2 - 1e-7).clamp(min=0)).sum(1) for magnitudes in (logs.exp() - 1e-8, true))
    torch.testing.assert_close(more, 0.5 * audible_decay_loss(*energies), rtol=1e-4, atol=1e-6)
