import numpy as np
import pytest

from haa_peft.rendering.diffuse import diffuse_spectrum, field_seed, mixing_time

FREQUENCY = np.arange(0, 12_000) / 2.0
RECEIVER = np.array([2.0, 1.5, 1.2])


def coherence(one, other, band):
    """Real part of the normalised cross spectrum, averaged over a band in Hz."""
    inside = (band[0] <= FREQUENCY) & (band[1] > FREQUENCY)
    cross = (one * other.conj())[inside].sum().real
    return cross / np.sqrt((np.abs(one[inside]) ** 2).sum() * (np.abs(other[inside]) ** 2).sum())


@pytest.mark.parametrize("distance", [0.02, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("end", ["position", "receiver"])
def test_coherence_is_sinc_kd(distance, end):
    """The closed form of a diffuse field (Cook et al., J. Acoust. Soc. Am. 27, 1955), averaged over bands."""
    place = np.array([3.0, 2.0, 1.0])
    moved = np.array([1.0, 2.0, 2.0]) / 3 * distance
    found = {band: [] for band in ((350, 700), (700, 1400), (1400, 2800), (2800, 5600))}
    for seed in range(4):
        one = diffuse_spectrum(FREQUENCY, place, RECEIVER, seed)
        ends = (place + moved, RECEIVER) if end == "position" else (place, RECEIVER + moved)
        other = diffuse_spectrum(FREQUENCY, *ends, seed)
        for band, values in found.items():
            values.append(coherence(one, other, band))
    for band, values in found.items():
        frequency = FREQUENCY[(band[0] <= FREQUENCY) & (band[1] > FREQUENCY)]
        expected = np.sinc(2 * frequency * distance / 343).mean()
        assert np.mean(values) == pytest.approx(expected, abs=0.04)


def test_the_field_is_noise_of_power_one_and_the_same_again():
    one = diffuse_spectrum(FREQUENCY, np.ones(3), RECEIVER, 5)
    power = np.abs(one) ** 2
    assert power.mean() == pytest.approx(1, abs=0.03)
    assert (power > 1).mean() == pytest.approx(np.exp(-1), abs=0.02)  # exponential, as of a complex Gaussian
    np.testing.assert_array_equal(one, diffuse_spectrum(FREQUENCY, np.ones(3), RECEIVER, 5))
    np.testing.assert_array_equal(one[:500], diffuse_spectrum(FREQUENCY[:500], np.ones(3), RECEIVER, 5))
    other = diffuse_spectrum(FREQUENCY, np.ones(3), RECEIVER, field_seed("studio/base", 0))
    assert abs(coherence(one, other, (350, 5600))) < 0.05


def test_mixing_time_of_a_box():
    # 20 V/S + 12 ms: 10 x 10 x 10 m
    assert mixing_time(np.zeros(3), np.full(3, 10.0)) == pytest.approx((20 * 1000 / 600 + 12) / 1000)
    assert mixing_time(np.full(3, -np.inf), np.full(3, np.inf)) == 0.03
