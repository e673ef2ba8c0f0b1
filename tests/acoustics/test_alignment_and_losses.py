import numpy as np
import pytest
import torch

from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import energy_decay_loss, stft_l1_loss, training_loss
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
