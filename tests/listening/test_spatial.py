"""Ears and ambisonics microphones hear where sound comes from, and the late field as diffuse as it is."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from scipy import fft
from scipy.signal import butter, sosfiltfilt

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import DepthMap, directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.listening import read_hrtf
from haa_peft.listening.arrivals import Surroundings, shares
from haa_peft.listening.field import Field, Fields
from haa_peft.listening.hrtf import Hrtf, diffuse_coherence, head_of
from haa_peft.listening.spatial import ambisonics, binaural, rotation

RATE = 48_000
SIZE = np.array([6.0, 4.0, 2.7])
RECEIVER, POSITION = np.array([2.0, 1.5, 1.2]), np.array([4.3, 2.9, 1.5])
AHEAD = np.eye(3)


def degrees(one, other):
    return np.degrees(np.arccos((one * other).sum(axis=-1).clip(-1, 1)))


def noise_rir(count=RATE // 2, t60=0.6, seed=0, onset=0.008):
    """A direct sound and Gaussian noise that decays behind it."""
    time = np.arange(count) / RATE
    rir = np.random.default_rng(seed).standard_normal(count) * 10 ** (-3 * time / t60) * 0.02 * (time > onset + 0.004)
    rir[round(onset * RATE)] = 1
    return rir


def fields(others, geometry=None, at_receiver=True, seed=0):
    box = Surfaces.shoebox(SIZE) if geometry is None else geometry
    return Fields(Surroundings(box, RECEIVER, at_receiver), RATE, others, seed)


def images(source):
    """First image sources in a box (Allen and Berkley, J. Acoust. Soc. Am. 65, 1979), (6, 3)."""
    return np.array([np.where(np.arange(3) == axis, 2 * wall - source, source)
                     for axis in range(3) for wall in (0, SIZE[axis])])  # fmt: skip


@pytest.mark.parametrize("at_receiver", [True, False])
@pytest.mark.parametrize("seen", ["planes", "depths"])
def test_in_a_box_reflections_come_from_image_sources(at_receiver, seen):
    box = Surfaces.shoebox(SIZE)
    depth = render_depth(box, RECEIVER, directions()).astype(np.float32)
    geometry = box if seen == "planes" else DepthMap(depth, "a scan", "measured", np.zeros(3), SIZE)
    found = Surroundings(geometry, RECEIVER, at_receiver).arrivals(POSITION)
    head, source = (RECEIVER, POSITION) if at_receiver else (POSITION, RECEIVER)
    sources = np.concatenate([source[None], images(source)])
    ways = np.linalg.norm(sources - head, axis=1)
    order = ways.argsort()
    expected = (sources - head)[order] / ways[order, None]
    near = ways[order] < ways[0] + 343 * Surroundings(geometry, RECEIVER, True).mixed_s
    np.testing.assert_allclose(found.delays, ways[order][near] / 343, atol=1e-5)
    assert degrees(found.directions, expected[near]).max() < 1.0
    np.testing.assert_allclose(found.energies, (ways[0] / ways[order][near]) ** 2, rtol=1e-3)


def test_of_an_assumed_geometry_only_the_direct_sound_has_a_direction():
    depth = render_depth(Surfaces.shoebox(SIZE), RECEIVER, directions())
    found = Surroundings(DepthMap.unbounded(depth, "nothing", ()), RECEIVER, True).arrivals(POSITION)
    assert len(found.delays) == 1


def test_the_parts_of_an_rir_are_the_rir():
    rir = noise_rir()
    field = fields(1).of(rir, POSITION)
    whole = field.diffuse.copy()
    whole[: field.directed.shape[1]] += field.directed.sum(axis=0)
    np.testing.assert_allclose(whole, rir, atol=1e-12)
    share = shares(Surroundings(Surfaces.shoebox(SIZE), RECEIVER, True).arrivals(POSITION), RATE, RATE // 2)
    assert share.min() >= 0
    assert share.sum(axis=0).max() <= 1 + 1e-12
    before = round(np.linalg.norm(POSITION - RECEIVER) / 343 * RATE) - 30
    np.testing.assert_allclose(share[0, :before], 1)


SPANS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds that divide late fields."""


def energies(signals, centres=(250, 500, 1000, 2000, 4000)):
    """Energies (channels, octaves, spans)."""
    filters = [butter(2, [c / 2**0.5, c * 2**0.5], "band", fs=RATE, output="sos") for c in centres]
    bands = np.stack([sosfiltfilt(sos, np.atleast_2d(signals), axis=-1) for sos in filters], axis=1)
    edges = [round(second * RATE) for second in SPANS]
    return np.stack([(bands[..., a:b] ** 2).sum(axis=-1) for a, b in pairwise(edges)], axis=-1)


class TestAmbisonics:
    @pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (-60, 20), (180, -45), (30, 90)])
    def test_gains_of_a_plane_wave(self, azimuth, elevation):
        """ACN and SN3D: W = 1, Y = sin a cos e, Z = sin e, X = cos a cos e (Ambix, 2011)."""
        a, e = np.radians([azimuth, elevation])
        towards = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        wave = np.zeros((1, 10))
        wave[0, 3] = 2.0
        found = ambisonics(Field(wave, towards[None], np.zeros(10), np.zeros((3, 10))), AHEAD)
        np.testing.assert_allclose(found[:, 3], 2 * np.array([1, towards[1], towards[2], towards[0]]), atol=1e-12)

    def test_the_first_channel_is_the_rir(self):
        rir = noise_rir()
        np.testing.assert_allclose(ambisonics(fields(3).of(rir, POSITION), AHEAD)[0], rir, atol=1e-12)

    def test_the_late_field_is_diffuse(self):
        """Each of the others 4.77 dB below the first, and independent of it and of each other."""
        turn = rotation(70, 20)
        heard = [ambisonics(fields(3, seed=i).of(noise_rir(seed=100 + i), POSITION), turn) for i in range(6)]
        level = 10 * np.log10(np.mean([energies(one) for one in heard], axis=0))[..., 1:]
        np.testing.assert_allclose(level[1:] - level[0], -4.77, atol=1.5)
        np.testing.assert_allclose((level[1:] - level[0]).mean(axis=(0, 1)), -4.77, atol=0.3)
        late = np.concatenate([one[:, 5000:20_000] for one in heard], axis=1)
        np.testing.assert_allclose(np.corrcoef(late) - np.eye(4), 0, atol=0.05)

    def test_a_head_that_turns_left_hears_the_front_on_its_right(self):
        wave = Field(np.ones((1, 1)), np.array([[1.0, 0, 0]]), np.zeros(1), np.zeros((3, 1)))
        np.testing.assert_allclose(ambisonics(wave, rotation(90, 0))[:, 0], [1, -1, 0, 0], atol=1e-12)
        np.testing.assert_allclose(ambisonics(wave, rotation(0, 90))[:, 0], [1, 0, -1, 0], atol=1e-12)


def spaced_ears(width=0.18, count=2000, rate=RATE):
    """Two microphones in the free field, whose coherence in a diffuse one is sinc(k width)."""
    order = np.arange(count) + 0.5
    height, angle = 1 - 2 * order / count, np.pi * (1 + 5**0.5) * order
    flat = np.sqrt(1 - height**2)
    around = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    ahead = width / 2 * around[:, 1] / 343 * rate
    delays = np.stack([60 - ahead, 60 + ahead], axis=1)
    taps = np.arange(160) - delays[..., None]
    return Hrtf(np.sinc(taps) * np.cos(np.pi * taps / 240).clip(0) ** 2, around, rate)


def coherence_of(responses, start, stop, size=2048):
    """Frequencies and the coherence (its real part) of pairs of late responses, averaged over all."""
    window = np.hanning(size)
    cross, power = 0, np.zeros((2, size // 2 + 1))
    for pair in responses:
        for at in range(round(start * RATE), round(stop * RATE) - size, size // 2):
            one, other = fft.rfft(pair[:, at : at + size] * window)
            weight = 1 / (pair[:, at : at + size] ** 2).sum()
            cross = cross + weight * (one * other.conj()).real
            power += weight * np.abs([one, other]) ** 2
    smooth = np.ones(5) / 5
    cross, power = np.convolve(cross, smooth, "same"), np.stack([np.convolve(one, smooth, "same") for one in power])
    return fft.rfftfreq(size, 1 / RATE), cross / np.sqrt(power.prod(axis=0))


def late_responses(head, count=12):
    hears = binaural(head)
    return [hears(fields(1, seed=seed).of(noise_rir(seed=100 + seed), POSITION), AHEAD) for seed in range(count)]


class TestEars:
    def test_of_no_head_both_hear_the_rir(self):
        """HRTFs of one from everywhere: equalising, late filters and directions change nothing."""
        around = spaced_ears(count=100).directions
        rir = noise_rir()
        found = binaural(head_of(Hrtf(np.tile(np.eye(1, 64), (100, 2, 1)), around, RATE), RATE))(
            fields(1).of(rir, POSITION), AHEAD
        )
        np.testing.assert_allclose(found[:, : len(rir)], np.tile(rir, (2, 1)), atol=1e-9)

    def test_the_late_field_of_two_microphones_is_coherent_as_sinc(self):
        head = head_of(spaced_ears(), RATE)
        frequency, found = coherence_of(late_responses(head), 0.06, 0.45)
        expected = np.sinc(2 * frequency * 0.18 / 343)
        band = (frequency > 200) & (frequency < 6000)
        assert np.sqrt(((found - expected)[band] ** 2).mean()) < 0.08
        assert np.abs(found.clip(-1, 1) - 1)[(frequency > 50) & (frequency < 100)].max() < 0.1

    def test_energies_in_bands_and_time_are_the_rirs(self):
        head = head_of(spaced_ears(), RATE)
        rirs = [noise_rir(seed=100 + seed) for seed in range(12)]
        heard = np.mean([energies(pair).mean(axis=0) for pair in late_responses(head)], axis=0)
        own = np.mean([energies(rir)[0] for rir in rirs], axis=0)
        np.testing.assert_allclose(10 * np.log10(heard / own), 0, atol=0.7)


@pytest.fixture(scope="module")
def slab():
    """Without its sound card's library, which may be missing and is not needed."""
    there = sys.modules.get("sounddevice")
    sys.modules["sounddevice"] = None
    try:
        return pytest.importorskip("slab")
    finally:
        if there is None:
            del sys.modules["sounddevice"]
        else:
            sys.modules["sounddevice"] = there


@pytest.fixture(scope="module")
def kemar(slab):
    """MIT's KEMAR (Gardner and Martin, 1994)."""
    found = slab.HRTF.kemar()
    hrirs = np.stack([one.data.T for one in found.data])
    sources = found.sources.cartesian.astype(float)
    return Hrtf(hrirs, sources / np.linalg.norm(sources, axis=1, keepdims=True), 44_100)


def delay_s(pair, rate, low_pass=1500):
    """By how much the right ear hears later: where phases below 1.5 kHz agree best, as one filter leaves them."""
    spectra = fft.rfft(pair, 1 << 16)
    cross = spectra[1] * spectra[0].conj()
    cross = cross / np.abs(cross) * (fft.rfftfreq(1 << 16, 1 / rate) < low_pass)
    cross = fft.irfft(cross, 1 << 18)
    at = int(cross.argmax())
    return (at if at < 1 << 17 else at - (1 << 18)) / rate / 4


class TestKemar:
    @pytest.mark.parametrize("azimuth", [0, 30, 90, 135, -60])
    @pytest.mark.parametrize("rate", [44_100, 48_000])
    def test_the_direct_sound_has_the_hrtfs_differences(self, azimuth, rate, kemar):
        a = np.radians(azimuth)
        towards = np.array([np.cos(a), np.sin(a), 0])
        wave = np.zeros((1, 400))
        wave[0, 200] = 1
        found = binaural(head_of(kemar, rate))(Field(wave, towards[None], np.zeros(400), np.zeros((1, 400))), AHEAD)
        own = kemar.hrirs[degrees(kemar.directions, towards).argmin()]
        assert delay_s(found, rate) == pytest.approx(delay_s(own, 44_100), abs=6e-6)
        spectra = [np.abs(fft.rfft(pair, 8 * r, axis=-1)) for pair, r in ((found, rate), (own, 44_100))]
        for low in (250, 500, 1000, 2000, 4000, 8000):
            band = slice(8 * low * 7 // 10, 8 * low * 14 // 10)
            here, there = (20 * np.log10(s[0, band] / s[1, band]) for s in spectra)
            assert here.mean() == pytest.approx(there.mean(), abs=0.1)

    def test_the_late_field_is_coherent_as_the_head_in_a_diffuse_one(self, kemar):
        """As the mean of its HRTFs over the sphere, and a formula of Borss and Martin (AES 35th Conference, 2009)."""
        frequency, found = coherence_of(late_responses(head_of(kemar, RATE)), 0.06, 0.45)
        weights = np.cos(np.arcsin(kemar.directions[:, 2]))
        rings = np.unique(kemar.directions[:, 2].round(3), return_inverse=True, return_counts=True)
        weights = weights / rings[2][rings[1]]  # rings 10 degrees apart, of evenly spaced directions
        _, expected = diffuse_coherence(fft.rfft(kemar.hrirs, 4096), weights / weights.sum())
        expected = np.interp(frequency, fft.rfftfreq(4096, 1 / 44_100), expected)
        band = (frequency > 200) & (frequency < 10_000)
        formula = np.sinc(frequency / 550) * (1 - frequency / 2700).clip(0)
        for one in (expected, formula):
            assert np.sqrt(((found - one)[band] ** 2).mean()) < 0.1
            assert np.abs(found - one)[band].max() < 0.35

    def test_a_file_that_slab_wrote(self, slab, kemar, tmp_path):
        pytest.importorskip("sofar")
        slab.HRTF.kemar().write_sofa(tmp_path / "kemar.sofa")
        found = read_hrtf(tmp_path / "kemar.sofa")
        np.testing.assert_array_equal(found.hrirs, kemar.hrirs)
        np.testing.assert_allclose(found.directions, kemar.directions, atol=2e-3)

    def test_its_diffuse_field_is_flat(self, kemar):
        head = head_of(kemar, RATE)
        power = (np.abs(fft.rfft(head.late, 4096)) ** 2).sum(axis=(0, 1)) / 2
        frequency = fft.rfftfreq(4096, 1 / RATE)
        level = 10 * np.log10(power[(frequency > 200) & (frequency < 15_000)])
        assert np.abs(level).max() < 1


def write_sofa(path, hrtf, ears=((0, 0.09, 0), (0, -0.09, 0)), convention="SimpleFreeFieldHRIR"):
    sofar = pytest.importorskip("sofar")
    sofa = sofar.Sofa(convention)
    sofa.Data_IR, sofa.Data_SamplingRate = hrtf.hrirs, float(hrtf.rate)
    sofa.Data_Delay = np.zeros((1, 2))
    sofa.SourcePosition, sofa.SourcePosition_Type = hrtf.directions * 1.4, "cartesian"
    sofa.SourcePosition_Units = "metre"
    sofa.ReceiverPosition = np.array(ears)
    sofar.write_sofa(str(path), sofa)
    return path


class TestFiles:
    @pytest.fixture
    def small(self):
        hrtf = spaced_ears(count=40)
        return Hrtf(hrtf.hrirs + 0.01, hrtf.directions, hrtf.rate)

    def test_hrtfs_of_a_sofa_file(self, small, tmp_path):
        found = read_hrtf(write_sofa(tmp_path / "head.sofa", small))
        np.testing.assert_allclose(found.hrirs, small.hrirs)
        np.testing.assert_allclose(found.directions, small.directions, atol=1e-9)
        assert found.rate == RATE

    def test_the_left_ear_is_on_the_left(self, small, tmp_path):
        path = write_sofa(tmp_path / "head.sofa", small, ears=((0, -0.09, 0), (0, 0.09, 0)))
        np.testing.assert_allclose(read_hrtf(path).hrirs, small.hrirs[:, ::-1])

    def test_without_places_of_ears_the_first_is_the_left(self, small, tmp_path):
        found = read_hrtf(write_sofa(tmp_path / "head.sofa", small, ears=((0, 0, 0), (0, 0, 0))))
        np.testing.assert_allclose(found.hrirs, small.hrirs)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hrirs": np.ones((40, 1, 64))}, "1 receivers and must be of one head with two"),
            ({"directions": np.tile([1.0, 0, 0], (40, 1))}, "sources in fewer than 8 directions"),
            ({"hrirs": np.ones((40, 2, 9600))}, "responses last 0.20 s, as a room's"),
        ],
    )
    def test_what_is_no_head_is_said(self, change, message, small, tmp_path):
        hrtf = Hrtf(**{**vars(small), **change})
        ears = ((0, 0.09, 0), (0, -0.09, 0))[: hrtf.hrirs.shape[1]]
        if len(ears) == 1:
            pytest.importorskip("sofar")
            path = write_single(tmp_path / "head.sofa", hrtf)
        else:
            path = write_sofa(tmp_path / "head.sofa", hrtf, ears=ears)
        with pytest.raises(InputError, match=message):
            read_hrtf(path)

    def test_a_head_that_looks_aside_is_said(self, small, tmp_path):
        path = write_sofa(tmp_path / "head.sofa", small, ears=((0.09, 0, 0), (-0.09, 0, 0)))
        with pytest.raises(InputError, match="the head looks elsewhere than along x"):
            read_hrtf(path)

    def test_another_file_is_said(self, tmp_path):
        (tmp_path / "head.sofa").write_text("no SOFA")
        with pytest.raises(InputError, match="cannot be read as a SOFA file"):
            read_hrtf(tmp_path / "head.sofa")


def write_single(path, hrtf):
    """A SOFA file of one microphone."""
    import sofar

    sofa = sofar.Sofa("GeneralFIR")
    sofa.Data_IR, sofa.Data_SamplingRate, sofa.Data_Delay = hrtf.hrirs, float(hrtf.rate), np.zeros((1, 1))
    sofa.SourcePosition, sofa.ReceiverPosition = hrtf.directions * 1.4, np.zeros((1, 3))
    sofa.ListenerPosition = np.zeros((1, 3))
    sofar.write_sofa(str(path), sofa)
    return path
