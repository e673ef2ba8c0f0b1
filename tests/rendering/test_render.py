"""RIRs at other rates and lengths, on rooms whose decays are known."""

import numpy as np
import pytest
from scipy import fft, signal

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.rendering.bands import band_filters
from haa_peft.rendering.render import Renderer

RATE, T60 = 48_000, 0.7
RECEIVER = np.array([2.0, 1.5, 1.2])
BOUNDS = np.zeros(3), np.array([6.0, 4.0, 2.7])
TARGETS = np.random.default_rng(4).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.2], (12, 3))


def room_rirs(positions, seconds, rate=RATE, seed=0, t60=T60):
    """Direct sound and a tail of noise (N, T), of a receiver at ``RECEIVER``."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    found = []
    for distance in np.linalg.norm(positions - RECEIVER, axis=1):
        tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60) * (time > distance / 343)
        rir = 0.03 * (rate / 48_000) ** 0.5 * tail
        rir[round(distance / 343 * rate)] += rate / 48_000 / distance
        found.append(rir)
    return np.array(found)


@pytest.fixture(scope="module")
def renderer():
    positions = np.random.default_rng(2).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.2], (12, 3))
    return Renderer(room_rirs(positions, 0.9).astype(np.float16), RATE, positions, RECEIVER, BOUNDS, "studio/base")


@pytest.fixture(scope="module")
def modelled():
    """What a perfect network says at the targets: 0.435 s at 22 050 Hz."""
    true = room_rirs(TARGETS, 0.6, seed=9)
    return signal.resample_poly(true, 147, 320, axis=1)[:, :9600]


def render(renderer, modelled, **asked):
    given = {"sample_rate": RATE, "samples": round(RATE * renderer.full_s), "diffuse": True, "seed": 0, **asked}
    return np.stack(list(renderer.render(modelled, TARGETS, 8, **given)))


def in_bands(rirs, rate):
    """Signals (N, 9, T) of the bands."""
    padded = fft.next_fast_len(rirs.shape[1] + rate // 5, real=True)
    filters = band_filters(fft.rfftfreq(padded, 1 / rate))
    return fft.irfft(fft.rfft(rirs, padded)[:, None] * filters, padded)[..., : rirs.shape[1]]


@pytest.mark.parametrize("diffuse", [True, False])
def test_a_room_of_known_reverberation_goes_on_with_it(diffuse, renderer, modelled):
    rirs = render(renderer, modelled, diffuse=diffuse)
    assert rirs.dtype == np.float32
    assert renderer.full_s == pytest.approx(T60, rel=0.1)
    found = iso_metrics(rirs, RATE)
    for band in ("broadband", "250", "500", "1000", "2000", "4000"):
        assert np.mean(found[band]["t30_s"]) == pytest.approx(T60, rel=0.05)
        assert np.std(found[band]["t30_s"]) < 0.1 * T60


@pytest.mark.parametrize("diffuse", [True, False])
def test_no_step_at_the_seam(diffuse, renderer, modelled):
    """Decay curves of octaves are as straight around 0.435 s as before it."""
    power = in_bands(render(renderer, modelled, diffuse=diffuse), RATE)[:, 3:] ** 2
    curve = 10 * np.log10(power[..., ::-1].cumsum(axis=-1)[..., ::-1])
    time = np.arange(curve.shape[-1]) / RATE
    inside = (time > 0.15) & (time < 0.55)
    straight = curve[..., inside] + 60 / T60 * time[inside]
    straight = (straight - straight.mean(axis=-1, keepdims=True)).mean(axis=0)  # over the targets
    assert np.abs(straight).max() < 0.8
    spans = power[..., : int(0.6 * RATE)].reshape(*power.shape[:-1], -1, RATE // 20).sum(axis=-1)
    steps = np.diff(10 * np.log10(spans.mean(axis=0)[:, 2:])) + 3 / T60  # from 50 ms to the next
    assert np.abs(steps).max() < 1.5


def test_the_early_part_is_the_prediction_resampled(renderer, modelled):
    """soxr, another resampler, up to where the references take over and the field is mixed."""
    soxr = pytest.importorskip("soxr")
    rirs = render(renderer, modelled)
    other = np.stack([soxr.resample(rir, 22_050, RATE, quality="VHQ") for rir in modelled])
    low = signal.butter(8, 6000, output="sos", fs=RATE)
    for one, two, position in zip(rirs, other, TARGETS, strict=True):
        start = np.linalg.norm(position - RECEIVER) / 343
        early = slice(0, round((start + 0.015) * RATE))
        one, two = (signal.sosfiltfilt(low, x)[early] for x in (one, two))
        assert np.linalg.norm(one - two) < 0.03 * np.linalg.norm(two)


def test_energy_above_what_is_modelled_is_that_of_the_references(renderer, modelled):
    """The made-up room is as loud there as below: white noise."""
    power = (in_bands(render(renderer, modelled), RATE) ** 2)[..., : int(0.4 * RATE)].sum(axis=-1)
    per_hertz = power[:, [7, 8]] / np.array([10_000 - 5657, 24_000 - 10_000])
    np.testing.assert_allclose(10 * np.log10(per_hertz[:, 1] / per_hertz[:, 0]), 0, atol=1.5)
    quiet = render(renderer, modelled, sample_rate=22_050, samples=9600)
    assert quiet.shape == (len(TARGETS), 9600)


def test_the_diffuse_field_keeps_energies_in_bands_and_time(renderer, modelled):
    asked = {"sample_rate": 22_050, "samples": 9600, "continued": False}
    found = in_bands(render(renderer, modelled, **asked), 22_050)
    true = in_bands(modelled, 22_050)
    power = [(x[:, 3:8] ** 2)[..., : 9 * 1050].reshape(-1, 5, 9, 1050).sum(axis=-1) for x in (found, true)]
    change = 10 * np.log10(power[0] / power[1])
    assert np.abs(change).max() < 2.0
    assert np.abs(change.mean(axis=-1)).max() < 0.4


def test_late_fields_are_as_alike_as_a_diffuse_field(renderer, modelled):
    """At 5 cm and 1 m, from the same prediction: sinc(kd), averaged over the octave of 1 kHz."""
    frequency = np.linspace(710, 1420, 200)
    for distance in (0.05, 1.0):
        places = np.array([TARGETS[0], TARGETS[0] + [0, distance, 0]])
        similar = []
        for seed in range(4):
            pair = list(renderer.render(modelled[[0, 0]], places, 8, sample_rate=RATE, samples=RATE // 2,
                                        diffuse=True, seed=seed))  # fmt: skip
            one, two = in_bands(np.stack(pair), RATE)[:, 4, RATE // 20 : RATE // 3]
            similar.append(one @ two / np.sqrt(one @ one * (two @ two)))
        assert np.mean(similar) == pytest.approx(np.sinc(2 * frequency * distance / 343).mean(), abs=0.12)


def test_rates_agree(renderer, modelled):
    """What is predicted at 16 kHz is what is predicted at 48 kHz, as another resampler has it."""
    low = render(renderer, modelled, sample_rate=16_000, samples=9600)
    other = signal.resample_poly(render(renderer, modelled, samples=28_800), 1, 3, axis=1)
    below = signal.butter(8, 5000, output="sos", fs=16_000)
    low, other = (signal.sosfiltfilt(below, x) for x in (low, other))
    assert np.linalg.norm(low - other) < 0.05 * np.linalg.norm(other)


def test_receivers_share_the_diffuse_field(renderer, modelled):
    """Also where the room rings longer at one of them: at 5 cm, sinc(kd) in the octave of 1 kHz."""
    frequency, similar = np.linspace(710, 1420, 200), []
    positions = renderer.positions[:6]
    above = np.array([0, 0, 0.05])
    longer = Renderer(room_rirs(positions, 1.5, t60=1.2), RATE, positions, RECEIVER + above, BOUNDS, "studio/base")
    one = renderer.with_length(longer.full_s)
    assert one.full_s == longer.full_s > renderer.full_s
    for seed in range(4):
        asked = {"sample_rate": RATE, "samples": RATE // 2, "diffuse": True, "seed": seed}
        pair = np.concatenate([list(at.render(modelled[:1], TARGETS[:1], 6, **asked)) for at in (one, longer)])
        first, second = in_bands(pair, RATE)[:, 4, RATE // 20 : RATE // 3]
        similar.append(first @ second / np.sqrt(first @ first * (second @ second)))
    assert np.mean(similar) == pytest.approx(np.sinc(2 * frequency * 0.05 / 343).mean(), abs=0.12)
