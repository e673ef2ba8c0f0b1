"""Loudness as ITU-R BS.1770-4 and EBU Tech 3341 say it."""

import numpy as np
import pytest

from haa_peft.listening.loudness import Meter, k_weighting


def sine(level_db, seconds, rate=48_000, frequency=997.0):
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def measured(sound, rate=48_000, block=7001):
    meter = Meter(rate)
    for start in range(0, sound.shape[1], block):
        meter.add(sound[:, start : start + block])
    return meter


def test_the_filters_are_the_standards():
    """BS.1770-4, annex 1, tables 1 and 2."""
    expected = [
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585],
        [1, -2, 1, 1, -1.99004745483398, 0.99007225036621],
    ]
    np.testing.assert_allclose(k_weighting(48_000), expected, atol=1e-9)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_a_sine_of_full_scale_in_one_channel_is_3_db_below(rate):
    assert measured(sine(0, 4, rate)[None], rate).loudness == pytest.approx(-3.01, abs=0.02)


def test_what_is_quiet_does_not_count():
    """EBU Tech 3341, case 3: -36, -23 and -36 dB in both channels for 10, 60 and 10 s are -23 LUFS."""
    parts = np.concatenate([sine(level, seconds) for level, seconds in ((-36, 10), (-23, 60), (-36, 10))])
    meter = measured(np.stack([parts, parts]))
    assert meter.loudness == pytest.approx(-23, abs=0.1)
    assert meter.peak == pytest.approx(10 ** (-23 / 20), rel=1e-3)


def test_silence_has_none():
    assert measured(np.zeros((1, 48_000))).loudness == -np.inf
    assert measured(np.zeros((1, 10))).loudness == -np.inf
