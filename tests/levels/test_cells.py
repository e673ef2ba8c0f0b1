"""Levels in cells, against tones, noise and exponentials whose levels are known."""

import numpy as np
import pytest

from haa_peft.acoustics.alignment import SPEED_OF_SOUND
from haa_peft.acoustics.iso import octave_gain
from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.levels.cells import EDGES_S, OCTAVES, SPANS, cell_levels, octaves, with_gains

DISTANCE = np.array([2.0])


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((1, RIR_LENGTH)).astype(np.float32)


def test_octaves_add_up_to_the_signal(noise):
    assert np.allclose(octaves(noise).sum(axis=1), noise, atol=1e-4)


def test_a_tone_is_in_its_octave():
    time = np.arange(RIR_LENGTH) / SAMPLE_RATE
    for i, band in enumerate(OCTAVES):
        power = (octaves(np.sin(2 * np.pi * band * time)[None])[0, :, 2000:7000] ** 2).sum(axis=1)
        assert power.argmax() == i
        assert power[i] > 0.98 * power.sum()


def test_levels_of_a_decay_fall_as_it_does():
    """White noise times an exponential of T60 = 0.5 s loses 60 dB in that time; spans are of known length."""
    reverberation = 0.5
    after = np.arange(RIR_LENGTH) / SAMPLE_RATE - DISTANCE[0] / SPEED_OF_SOUND
    rng = np.random.default_rng(1)
    envelope = np.where(after >= 0, 10 ** (-3 * after / reverberation), 0)
    rirs = (rng.standard_normal((200, RIR_LENGTH)) * envelope).astype(np.float32)
    levels = 10 * np.log10((10 ** (cell_levels(rirs, np.full(200, DISTANCE[0])) / 10)).mean(axis=0))
    edges = np.array([*EDGES_S, RIR_LENGTH / SAMPLE_RATE - DISTANCE[0] / SPEED_OF_SOUND])
    rate = 6 * np.log(10) / reverberation
    energy = np.exp(-rate * edges[:-1]) - np.exp(-rate * edges[1:])
    expected = 10 * np.log10(energy / energy[-1])
    found = levels[1:] - levels[-1]
    assert np.abs(found[1:, 3:] - expected[1:, None]).max() < 0.5  # from 5 ms and 1 kHz on, where filters ring little


def test_a_spherical_wave_has_the_same_direct_level_everywhere():
    distances = np.array([1.0, 2.5, 6.0])
    rirs = np.zeros((3, RIR_LENGTH), dtype=np.float32)
    for row, distance in zip(rirs, distances, strict=True):
        row[round(distance / SPEED_OF_SOUND * SAMPLE_RATE)] = 1 / distance
    assert np.ptp(cell_levels(rirs, distances)[:, 0], axis=0).max() < 0.1


def test_gains_change_levels_by_what_they_say(noise):
    gains = np.zeros((1, SPANS, len(OCTAVES)))
    gains[0, 4:] = 6.0
    change = cell_levels(with_gains(octaves(noise), DISTANCE, gains), DISTANCE) - cell_levels(noise, DISTANCE)
    assert np.abs(change[0, 5:, 2:] - 6).max() < 0.1
    assert np.abs(change[0, :3, 2:]).max() < 0.1
    tilt = np.broadcast_to(np.linspace(-6, 6, len(OCTAVES)), gains.shape)
    louder = with_gains(octaves(noise), DISTANCE, tilt)
    spectra = np.abs(np.fft.rfft(np.concatenate([louder, noise]))) ** 2
    frequencies = np.fft.rfftfreq(RIR_LENGTH, 1 / SAMPLE_RATE)
    for band, gain in zip(OCTAVES[:-1], tilt[0, 0], strict=False):  # by the octave filters of IEC 61260
        power = (spectra * octave_gain(frequencies, band) ** 2).sum(axis=1)
        assert 10 * np.log10(power[0] / power[1]) == pytest.approx(gain, abs=0.6)


def test_no_gains_change_nothing(noise):
    assert np.allclose(with_gains(octaves(noise), DISTANCE, np.zeros((1, SPANS, len(OCTAVES)))), noise, atol=1e-4)


def test_gains_are_bounded(noise):
    gains = np.full((1, SPANS, len(OCTAVES)), 400.0)
    assert np.allclose(with_gains(octaves(noise), DISTANCE, gains), noise * 10 ** (25 / 20), rtol=1e-3, atol=1e-3)
