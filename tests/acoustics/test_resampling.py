"""Resampling against the function that was sampled, and against torchaudio, with which published results were made."""

import json

import numpy as np
import pytest
import torch

from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.resampling import resample
from haa_peft.acoustics.spectrogram import RIR_LENGTH, SAMPLE_RATE
from tests.conftest import decaying_noise

TIMES = np.arange(RIR_LENGTH) / SAMPLE_RATE
PERCENT_OF_JND = {"edt_s": 0.05e-2, "c50_db": 0.01, "t60_20_s": 0.05e-2, "t60_30_s": 0.05e-2}
"""Of the value for times, in dB for clarity."""


def decibels(error):
    return 20 * np.log10(np.abs(error).max())


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_sines_below_8_khz_are_sampled_at_the_new_times(rate):
    frequencies = np.array([[100.0], [1000], [3000], [6000], [7000], [8000]])
    measured = np.sin(2 * np.pi * frequencies * np.arange(rate // 2) / rate)
    error = resample(measured, rate) - np.sin(2 * np.pi * frequencies * TIMES)
    assert decibels(error[:, 10:]) < -44  # the sines begin abruptly


@pytest.mark.parametrize("rate", [11_250, 16_000, 48_000, 96_000])
def test_a_short_pulse_stays_where_it_is(rate):
    """A Gaussian pulse with 1/e^2 of its peak's spectrum at 3.2 kHz, 0.4 ms after the start."""

    def pulse(times):
        return np.exp(-(((times - 0.4e-3) / 0.1e-3) ** 2) / 2)

    assert decibels(resample(pulse(np.arange(rate // 10) / rate)[None], rate)[0] - pulse(TIMES)) < -52


def test_length_is_that_of_every_rir():
    rirs = np.ones((2, 320), np.float32)
    short = resample(rirs, 48_000)
    assert (short.shape, short.dtype) == ((2, RIR_LENGTH), np.float32)
    assert short[:, :147].all()
    assert not short[:, 147:].any()
    np.testing.assert_array_equal(resample(rirs, SAMPLE_RATE)[:, :320], rirs)


@pytest.mark.parametrize("rate", [8000, 48_000, 384_000])
def test_256_samples_more_than_are_kept_are_enough(rate):
    """As :mod:`haa_peft.rooms.load` reads them."""
    rirs = np.random.default_rng(0).standard_normal((1, rate)).astype(np.float32)
    enough = -(-RIR_LENGTH * rate // SAMPLE_RATE) + 256
    np.testing.assert_allclose(resample(rirs[:, :enough], rate), resample(rirs, rate), atol=1e-6)


def test_metrics_of_noise_are_what_they_were(torchaudio):
    rirs = decaying_noise(30, 36_000, 48_000, 0.5, np.linspace(0.01, 8, 30))  # a direct sound at sample 1 too
    assert_as_with_torchaudio(torchaudio, rirs, 48_000)


@pytest.mark.parametrize("name", ["r3vival/000", "r3vival/050", "r3vival/100", "r3vival/RB", "measured/rs-office-1"])
def test_metrics_of_measured_rooms_are_what_they_were(torchaudio, shared_data, name):
    rate = json.loads((shared_data / name / "room.json").read_text())["sample_rate"]
    assert rate == 48_000
    assert_as_with_torchaudio(torchaudio, np.load(shared_data / name / "RIRs.npy").astype(np.float32), rate)


def assert_as_with_torchaudio(torchaudio, rirs, rate):
    """Samples to single precision, and paper-compatible metrics to 1 % of a just-noticeable difference."""
    theirs = torchaudio.functional.resample(torch.from_numpy(rirs), rate, SAMPLE_RATE)[:, :RIR_LENGTH].numpy()
    ours = resample(rirs, rate)
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
    found, expected = paper_metrics(ours, SAMPLE_RATE), paper_metrics(theirs, SAMPLE_RATE)
    assert np.isfinite(expected["edt_s"]).all()
    for name, tolerance in PERCENT_OF_JND.items():
        relative = {"atol": tolerance, "rtol": 0} if name == "c50_db" else {"rtol": tolerance}
        np.testing.assert_allclose(found[name], expected[name], **relative, err_msg=name)


def test_an_enlarged_room_is_what_it_was(torchaudio):
    rirs = decaying_noise(3, RIR_LENGTH, SAMPLE_RATE, 0.5, np.array([0.01, 2, 5]))
    theirs = torchaudio.functional.resample(torch.from_numpy(rirs), 100, 107, lowpass_filter_width=32)[:, :RIR_LENGTH]
    np.testing.assert_allclose(resample(rirs, 100, 107, 32), theirs, atol=1e-6 * np.abs(rirs).max())
