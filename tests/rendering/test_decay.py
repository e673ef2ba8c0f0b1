import numpy as np
import pytest

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.rendering.bands import AVERAGING_S, BANDS, CENTRES, averaged, band_filters
from haa_peft.rendering.decay import GRID, RoomDecay

RATE = 24_000


def rirs(t60, seconds, noise_db=-200.0, count=24, rate=RATE):
    """Exponentially decaying noise from 5 ms on, over noise (count, T)."""
    rng = np.random.default_rng(1)
    time = np.arange(round(seconds * rate)) / rate
    decays = rng.standard_normal((count, len(time))) * 10 ** (-3 * (time - 0.005) / t60) * (time >= 0.005)
    return decays + 10 ** (noise_db / 20) * rng.standard_normal(decays.shape)


def slopes(energy, start, stop):
    """T60 in s of energies (B, M) at milliseconds, between two times in s."""
    rows = slice(round(start * GRID), round(stop * GRID))
    level = 10 * np.log10(energy[:, rows])
    return -60 / (np.polyfit(np.arange(level.shape[1]) / GRID, level.T, 1)[0])


def test_bands_add_up_and_are_octaves():
    frequency = np.linspace(0, 24_000, 9601)
    for above in (True, False):
        np.testing.assert_allclose(band_filters(frequency, above).sum(axis=0), 1, atol=1e-6)
    at = band_filters(np.array([*CENTRES, 16_000.0]))
    np.testing.assert_allclose(at, np.eye(BANDS), atol=1e-6)
    halves = band_filters(np.array(CENTRES[1:-1]) * 2**0.5)
    assert halves.max(axis=0) == pytest.approx(0.5, abs=0.02)


def test_averages_keep_energy():
    power = np.zeros((BANDS, 4000))
    power[:, 2000] = 1
    found = averaged(power, 2000)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for row, seconds in zip(found, AVERAGING_S, strict=True):
        assert np.count_nonzero(row > 1e-12) / 2000 == pytest.approx(seconds, abs=0.003)


@pytest.mark.parametrize("t60", [0.3, 0.8, 1.2])
@pytest.mark.parametrize(("seconds", "noise_db"), [(0.4, -200), (1.0, -200), (1.0, -45)])
def test_a_known_decay_goes_on(t60, seconds, noise_db):
    """Beyond the recording's end, or its noise, the exponential that it was made with."""
    decay = RoomDecay.of(rirs(t60, seconds, noise_db), RATE, 0.005)
    found = slopes(decay.energy, 0.1, min(1.5 * t60, 3))
    np.testing.assert_allclose(found[4:], t60, rtol=0.06)  # from 1 kHz on
    np.testing.assert_allclose(found[2:4], t60, rtol=0.15)  # narrow bands are more by chance
    assert decay.full_s == pytest.approx(t60, rel=0.16)
    assert (decay.knee_s < seconds).all()
    if noise_db > -100:  # 60 dB fall in T60 and noise lies 45 dB below the start
        assert (decay.knee_s[2:] < 0.75 * t60).all()


def test_bands_decay_each_at_its_own_rate():
    from scipy.signal import butter, sosfiltfilt

    low, high = rirs(0.9, 0.8), rirs(0.3, 0.8)
    split = butter(8, 1400, output="sos", fs=RATE)
    mixed = sosfiltfilt(split, low) + high - sosfiltfilt(split, high)
    decay = RoomDecay.of(mixed, RATE, 0.005)
    found = slopes(decay.energy, 0.1, 0.6)
    np.testing.assert_allclose(found[[3, 4]], 0.9, rtol=0.05)
    np.testing.assert_allclose(found[[6, 7]], 0.3, rtol=0.05)
    # the second implementation: T20 by ISO 3382-1 of what was measured
    iso = iso_metrics(mixed, RATE)
    assert np.mean(iso["1000"]["t20_s"]) == pytest.approx(found[4], rel=0.06)


def test_bands_without_sound_do_not_decay_for_ever():
    """Measured at 8 kHz, there is nothing above 4 kHz; silence gives silence."""
    decay = RoomDecay.of(rirs(0.4, 0.8, rate=8000), 8000, 0.005)
    assert decay.energy[-1].max() < 1e-6 * decay.energy[4].max()
    assert decay.full_s == pytest.approx(0.4, rel=0.15)
    assert np.isfinite(RoomDecay.of(np.zeros((2, 4000)), 8000, 0.005).energy).all()
