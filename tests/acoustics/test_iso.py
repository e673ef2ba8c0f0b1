"""ISO 3382-1 parameters against closed forms of exponential decays and a second implementation."""

import time
import warnings

import numpy as np
import pytest
import torch
from pyroomacoustics.experimental import measure_rt60

from haa_peft.acoustics.iso import OCTAVE_BANDS, PARAMETERS, iso_metrics, octave_gain, sounding_part
from haa_peft.errors import InputError

RATE = 22_050
DECAY = 6 * np.log(10)  # nepers of energy in one reverberation time
TIMES = ("edt_s", "t20_s", "t30_s")


def envelope(t60, seconds, rate=RATE):
    return np.exp(-DECAY / 2 * np.arange(round(seconds * rate)) / rate / t60)


def exponential(t60, seconds, rate=RATE, seed=0):
    """Random signs: white, and yet the squared signal is exactly exponential."""
    decay = envelope(t60, seconds, rate)
    return decay * np.random.default_rng(seed).choice([-1.0, 1.0], decay.shape)


def noise_decays(t60, seconds, count, floor_db=None, rate=RATE, seed=0):
    rng = np.random.default_rng(seed)
    decay = envelope(t60, seconds, rate)
    signals = rng.standard_normal((count, len(decay))) * decay
    return signals if floor_db is None else signals + 10 ** (floor_db / 20) * rng.standard_normal(signals.shape)


def closed_form(t60):
    early50, early80 = np.expm1(DECAY * 0.05 / t60), np.expm1(DECAY * 0.08 / t60)
    return {
        **dict.fromkeys(TIMES, t60),
        "c50_db": 10 * np.log10(early50),
        "c80_db": 10 * np.log10(early80),
        "d50": early50 / (1 + early50),
        "ts_s": t60 / DECAY,
    }


def broadband(rirs, rate=RATE, **options):
    return iso_metrics(np.atleast_2d(rirs), rate, bands=(), **options)["broadband"]


@pytest.mark.parametrize("rate", [22_050, 48_000])
@pytest.mark.parametrize("t60", [0.15, 0.4, 0.8])
def test_exponential_gives_closed_forms(t60, rate):
    found = broadband(exponential(t60, 1.0, rate), rate)
    for name, true in closed_form(t60).items():
        # 50 ms are 1102.5 samples at 22 050 Hz; the centre of a sampled exponential is half a sample early.
        tolerance = {"c50_db": 0.01, "c80_db": 0.01, "d50": 3e-4, "ts_s": 0.6 / rate}.get(name, 1e-3 * t60)
        assert found[name][0] == pytest.approx(true, abs=tolerance), name


@pytest.mark.parametrize("floor_db", [None, -60, -48])
@pytest.mark.parametrize("t60", [0.15, 0.4, 0.8])
def test_noise_floor_does_not_bias(t60, floor_db):
    found = broadband(noise_decays(t60, 1.2, 24, floor_db))
    for name, true in closed_form(t60).items():
        assert np.isfinite(found[name]).all(), name
        error = np.mean(found[name]) - true
        limit = {"c50_db": 0.25, "c80_db": 0.25, "d50": 0.01}.get(name, 0.02 * true)
        assert abs(error) < limit, name


@pytest.mark.parametrize("floor_db", [None, -60])
def test_propagation_delay_changes_nothing(floor_db):
    rirs = noise_decays(0.3, 0.6, 4, floor_db)
    later = np.pad(rirs, ((0, 0), (700, 0)))
    first, second = iso_metrics(rirs, RATE), iso_metrics(later, RATE)
    for band in first:
        for name in PARAMETERS:
            np.testing.assert_allclose(second[band][name], first[band][name], rtol=1e-7)


def test_onset_is_20_db_below_the_maximum():
    rir = np.zeros((1, 4000))
    rir[0, 1000:] = envelope(0.2, 1.0)[:3000]
    rir[0, 900], rir[0, 950] = 0.099, 0.101
    onset, _ = sounding_part(rir)
    assert onset[0] == 950


@pytest.mark.parametrize("seconds", [1.5, 0.6])
def test_two_slopes_are_told_apart(seconds):
    """Energies that decay with 0.2 s and 0.9 s, the latter 13 dB down at the start; whole, and cut at -47 dB."""
    rng = np.random.default_rng(1)
    power = envelope(0.2, seconds) ** 2 + 0.05 * envelope(0.9, seconds) ** 2
    found = broadband(np.sqrt(power) * rng.choice([-1.0, 1.0], power.shape))
    remaining = 0.2 * envelope(0.2, 1.5) ** 2 + 0.05 * 0.9 * envelope(0.9, 1.5) ** 2
    level = 10 * np.log10(remaining / remaining[0])
    for name, upper, lower in (("edt_s", 0, -10), ("t20_s", -5, -25), ("t30_s", -5, -35)):
        part = np.flatnonzero((level <= upper) & (level >= lower))
        slope = np.polyfit(part / RATE, level[part], 1)[0]
        assert found[name][0] == pytest.approx(-60 / slope, rel=2e-3), name
    assert found["edt_s"][0] < 0.5 * found["t30_s"][0]


def test_second_implementation_agrees():
    rirs = noise_decays(0.3, 1.0, 5)
    rirs[:, 0] = 3.0  # both count from here
    found = broadband(rirs)
    for name, decay_db in (("t20_s", 20), ("t30_s", 30)):
        theirs = [measure_rt60(rir, fs=RATE, decay_db=decay_db) for rir in rirs]
        np.testing.assert_allclose(found[name], theirs, rtol=2e-3)


@pytest.mark.parametrize(
    ("depth_db", "missing"),
    [
        (45.5, set()),
        (44.5, {"t30_s"}),
        (35.5, {"t30_s"}),
        (34.5, {"t20_s", "t30_s"}),
        (26.1, {"t20_s", "t30_s"}),
        (20.5, {"t20_s", "t30_s"}),
        (19.5, {"edt_s", "t20_s", "t30_s", "ts_s"}),
        (6.0, set(PARAMETERS)),
    ],
)
def test_recording_cut_short(depth_db, missing):
    """A clean decay cut at 9600 samples: values without headroom are NaN, the others are right."""
    t60 = 60 / depth_db * 9600 / RATE
    found = broadband(exponential(t60, 9600 / RATE))
    assert {name for name in PARAMETERS if np.isnan(found[name][0])} == missing
    true = closed_form(t60)
    for name in set(PARAMETERS) - missing:
        tolerance = 0.01 if "db" in name else 1e-3 * true[name]
        assert found[name][0] == pytest.approx(true[name], abs=tolerance), name


def test_truncated_tail_is_made_up_for():
    """Without the tail's energy a decay of 1 s cut after 26 dB would read 9 % short."""
    rir = exponential(1.0, 9600 / RATE)
    level = 10 * np.log10(np.cumsum(rir[::-1] ** 2)[::-1] / np.sum(rir**2))
    plain = measure_rt60(rir, fs=RATE, decay_db=20)
    assert plain < 0.92
    assert broadband(rir, headroom_db=0)["t20_s"][0] == pytest.approx(1.0, rel=3e-3)
    part = level >= -10
    assert -60 / np.polyfit(np.flatnonzero(part) / RATE, level[part], 1)[0] < 0.992
    assert broadband(rir)["edt_s"][0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("floor_db", "given"), [(-50, TIMES), (-40, TIMES[:2]), (-27, TIMES[:1]), (-15, ())])
def test_noise_takes_headroom(floor_db, given):
    found = broadband(noise_decays(0.4, 1.0, 12, floor_db))
    for name in TIMES:
        assert np.isfinite(found[name]).all() == (name in given), name
        assert np.isnan(found[name]).all() == (name not in given), name


def test_clarity_needs_headroom_below_its_own_late_energy():
    # 0.15 s: the curve is at -20 dB after 50 ms and at -32 dB after 80 ms.
    found = broadband(noise_decays(0.15, 1.0, 12, -36))
    assert np.isfinite(found["c50_db"]).all()
    assert np.isnan(found["c80_db"]).all()
    # At -26 dB of noise the late energy is not known, but that it is less than 1 % of all is.
    found = broadband(noise_decays(0.15, 1.0, 12, -26))
    assert np.isnan(found["c50_db"]).all()
    assert found["d50"] == pytest.approx(closed_form(0.15)["d50"], abs=0.01)


def test_octave_bands_read_their_own_decay():
    # One tone in the middle of every second octave, the lower the longer.
    decays = {125: 0.8, 500: 0.4, 2000: 0.2}
    seconds = np.arange(2 * RATE) / RATE
    tones = [
        np.sin(2 * np.pi * 1000 * 10 ** (0.3 * np.log2(band / 1000)) * seconds) * envelope(t60, 2.0)
        for band, t60 in decays.items()
    ]
    found = iso_metrics(np.sum(tones, axis=0)[None], RATE)
    for band, t60 in decays.items():
        for name in TIMES:
            assert found[str(band)][name][0] == pytest.approx(t60, rel=0.03), (band, name)


@pytest.mark.parametrize(("t60", "edt_limit"), [(0.08, 0.12), (0.1, 0.05), (0.15, 0.02)])
def test_low_band_reads_short_decays(t60, edt_limit):
    """B T of 7, 9 and 13 at 125 Hz (decays of one tone at four phases)."""
    seconds = np.arange(9600) / RATE
    tones = [np.sin(2 * np.pi * 1000 * 10**-0.9 * seconds + phase) for phase in np.pi * np.arange(4) / 4]
    found = iso_metrics(np.stack(tones) * envelope(t60, 9600 / RATE), RATE, bands=(125,))["125"]
    assert found["t20_s"] == pytest.approx(t60, rel=0.02)
    assert found["t30_s"] == pytest.approx(t60, rel=0.01)
    assert np.mean(found["edt_s"]) == pytest.approx(t60, rel=edt_limit)


def test_low_bands_find_the_knee():
    """Few independent values in a short low-frequency decay: the fit must still not end in the noise."""
    found = iso_metrics(noise_decays(0.1, 0.435, 200, -60), RATE, bands=(125, 250))
    for band in ("125", "250"):
        assert np.mean(np.isnan(found[band]["edt_s"])) <= 0.005
        assert np.mean(np.isnan(found[band]["t30_s"])) <= 0.02
        assert np.nanmedian(found[band]["t30_s"]) == pytest.approx(0.1, rel=0.08)


def test_low_band_keeps_the_direct_sound():
    """At 125 Hz half of the direct sound rings before the onset; clarity and centre time must not lose it."""
    rir = np.zeros((2, RATE))
    rir[:, 500:] = 0.02 * exponential(0.5, 1.0)[: RATE - 500]
    rir[:, 500] += 1.0
    rir[1] = np.roll(rir[1], -500)
    border = 500 + round(0.05 * RATE)
    gain = octave_gain(np.fft.rfftfreq(1 << 16, 1 / RATE), 125) ** 2
    # Window before filter, the way of ISO 3382-1 around delays of filters.
    early, late = (np.abs(np.fft.rfft(part, 1 << 16)) ** 2 @ gain for part in (rir[0, :border], rir[0, border:]))
    found = iso_metrics(rir, RATE, bands=(125,))["125"]
    assert found["c50_db"] == pytest.approx(10 * np.log10(early / late), abs=0.5)


def test_filters_are_octaves_of_class_1():
    """IEC 61260-1:2014, table 1: at least 16.6, 40.5 and 60 dB one, two and three octaves from the centre."""
    for band in OCTAVE_BANDS:
        centre = 1000 * 10 ** (0.3 * round(np.log2(band / 1000)))
        octaves = np.array([-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3])
        level = 20 * np.log10(octave_gain(centre * 10 ** (0.3 * octaves), band))
        assert level[4] == pytest.approx(0, abs=1e-6)
        assert level[[3, 5]] == pytest.approx(-10 * np.log10(2), abs=1e-6)
        assert (level[[2, 6]] < -16.6).all()
        assert (level[[1, 7]] < -40.5).all()
        assert (level[[0, 8]] < -60).all()


def test_what_does_not_decay_is_nan_without_warnings():
    rng = np.random.default_rng(0)
    impulse = np.zeros(9600)
    impulse[100] = 1
    infinite = exponential(0.3, 9600 / RATE)
    infinite[4000] = np.inf
    hopeless = np.stack(
        [
            np.zeros(9600),
            np.full(9600, np.nan),
            infinite,
            np.ones(9600),
            rng.standard_normal(9600),
            impulse,
            impulse[::-1],
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = iso_metrics(hopeless, RATE)
        for short in (np.zeros((2, 1)), np.ones((3, 20)), np.zeros((0, 9600))):
            assert np.isnan(iso_metrics(short, RATE)["125"]["edt_s"]).all()
    for values in found.values():
        for name in PARAMETERS:
            assert np.isnan(values[name]).all(), name


def test_silence_at_the_end_is_not_noise():
    """Zeros behind a decay that is cut after 26 dB are padding: the same values as without them."""
    rir = exponential(1.0, 9600 / RATE)
    silence = np.zeros(8000)
    residue = 1e-7 * np.random.default_rng(0).standard_normal(8000)  # of a filter or a resampler
    plain, *padded = (broadband(np.append(rir, end)) for end in ([], silence, residue))
    for found in padded:
        for name in PARAMETERS:
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-9)
    holes = exponential(0.3, 1.0) * (np.arange(RATE) % 600 > 100)
    assert broadband(holes)["t30_s"][0] == pytest.approx(0.3, rel=0.05)


def test_batch_is_one_by_one_and_level_does_not_matter():
    rirs = np.concatenate([noise_decays(t60, 0.435, 2, -50, seed=3) for t60 in (0.15, 0.4, 0.9)])
    rirs = np.stack([np.roll(rir, 50 * index) for index, rir in enumerate(rirs)])
    together = iso_metrics(torch.tensor(rirs), RATE)
    for index, rir in enumerate(rirs):
        alone = iso_metrics(1e-4 * rir[None], RATE)
        for band, values in together.items():
            for name in PARAMETERS:
                np.testing.assert_allclose(alone[band][name], values[name][index : index + 1], rtol=1e-6)


def test_result_and_errors():
    found = iso_metrics(noise_decays(0.3, 0.435, 3).astype(np.float32), 8000, bands=(125, 4000))
    assert list(found) == ["broadband", "125", "4000"]
    assert all(values[name].shape == (3,) for values in found.values() for name in PARAMETERS)
    assert np.isnan(found["4000"]["t20_s"]).all()  # the octave reaches 5.6 kHz
    assert np.isfinite(found["125"]["edt_s"]).all()
    with pytest.raises(InputError, match=r"rirs has shape \(9600,\)"):
        iso_metrics(np.ones(9600), RATE)
    with pytest.raises(InputError, match="sample_rate is 0"):
        iso_metrics(np.ones((1, 9600)), 0)


def test_five_hundred_rirs_in_seconds():
    rirs = noise_decays(0.4, 9600 / RATE, 100, -60)
    began = time.process_time()
    iso_metrics(rirs, RATE)
    assert (time.process_time() - began) * 5 < 15  # 2 s on one core of 2024
