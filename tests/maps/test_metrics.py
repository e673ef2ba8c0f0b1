"""STI against the closed form of exponential decays, levels against the energy of a tone."""

import numpy as np
import pytest

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.errors import InputError
from haa_peft.maps.metrics import METRICS, metric_values
from haa_peft.maps.sti import (
    MODULATIONS,
    REDUNDANCY,
    WEIGHTS,
    modulation,
    speech_transmission_index,
    transfer_index,
)

RATE = 22_050


def closed_form(t60):
    """Modulation transfer of an exponential decay (Houtgast and Steeneken, 1985)."""
    return 1 / np.sqrt(1 + (2 * np.pi * np.array(MODULATIONS) * t60 / 13.8155) ** 2)


@pytest.mark.parametrize("t60", [0.3, 1.0, 3.0])
def test_modulation_of_an_exponential_decay(t60):
    """Cut after 0.4 s, so that most of the longest one is the tail that is added."""
    samples, rate = round(0.4 * RATE), 13.8155 / t60 / RATE
    power = np.exp(-rate * np.arange(samples))[None]
    tail = np.exp(-rate * samples) / -np.expm1(-rate)
    found = modulation(power, RATE, np.array([rate]), np.array([samples]), np.array([tail]))
    np.testing.assert_allclose(found[0], closed_form(t60), atol=1e-3)


@pytest.mark.parametrize("t60", [0.3, 0.6])
def test_sti_of_decaying_noise(t60):
    time = np.arange(9600) / RATE
    rirs = np.random.default_rng(0).standard_normal((40, 9600)) * 10 ** (-3 * time / t60)
    index = transfer_index(closed_form(t60))  # of every octave, so that weights add up to one
    assert speech_transmission_index(rirs, RATE).mean() == pytest.approx(index, abs=0.01)


def test_weights_add_up_to_one_where_all_octaves_are_alike():
    assert WEIGHTS.sum() - REDUNDANCY.sum() == pytest.approx(1)


def test_sti_needs_the_octave_of_8_khz():
    with pytest.raises(InputError, match="sample_rate is 8000 but must be at least 16000 Hz"):
        speech_transmission_index(np.ones((1, 100)), 8000)


@pytest.mark.parametrize(("band", "loss"), [("broadband", 0), ("1000", 0), ("2000", None), ("250", None)])
def test_level_of_a_tone(band, loss):
    """A sine of amplitude 0.5 for 0.3 s has the energy 0.5**2 / 2 * 0.3; other octaves hear little of it."""
    tone = np.zeros((1, 9600))
    tone[0, : round(0.3 * RATE)] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(0.3 * RATE)) / RATE)
    found = metric_values(tone, RATE, "level", band)[0] - 10 * np.log10(0.5**2 / 2 * 0.3)
    assert found == pytest.approx(0, abs=0.05) if loss == 0 else found < -15


@pytest.mark.parametrize("metric", ["c50", "edt", "t30", "d50"])
@pytest.mark.parametrize("band", ["broadband", "500"])
def test_the_others_are_those_of_iso_3382(metric, band):
    time = np.arange(9600) / RATE
    rirs = np.random.default_rng(1).standard_normal((3, 9600)) * 10 ** (-3 * time / 0.3)
    expected = iso_metrics(rirs, RATE)[band][METRICS[metric].iso]
    np.testing.assert_allclose(metric_values(rirs, RATE, metric, band), expected, rtol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_silence_is_undefined(metric):
    assert np.isnan(metric_values(np.zeros((1, 9600)), RATE, metric)).all()


@pytest.mark.parametrize(
    ("metric", "band", "said"),
    [
        ("c35", "broadband", "metric is 'c35' but must be one of c50, edt, "),
        ("c50", "8000", "band is '8000' but must be one of broadband, 125, "),
        ("sti", "500", "STI is of all octaves at once; leave the band out"),
    ],
)
def test_other_metrics_and_bands(metric, band, said):
    with pytest.raises(InputError, match=said):
        metric_values(np.ones((1, 100)), RATE, metric, band)


def test_a_step_is_a_share_of_decay_times():
    assert METRICS["edt"].step([0.4, 0.5, np.nan, 0.9]) == pytest.approx(0.025)
    assert METRICS["c50"].step([-3.0, 8.0]) == 1.0
