"""What import finds wrong, and mends where the measurements say how."""

import re

import numpy as np
import pytest

from haa_peft import load_room
from haa_peft.findings import check_room
from haa_peft.importing.repair import shifted
from tests.importing.conftest import RATE, RECEIVER, rirs_of

FIXED = ["--rate", RATE, "--receiver", *RECEIVER]


@pytest.fixture
def arrays(tmp_path, positions):
    """Write RIRs and positions as .npy files; what import is given."""

    def write(rirs, positions=positions):
        np.save(tmp_path / "rirs.npy", rirs)
        np.save(tmp_path / "positions.npy", positions)
        return [tmp_path / "rirs.npy", "--positions", tmp_path / "positions.npy"]

    return write


def test_shifting_is_exact_for_whole_samples_and_a_delay_of_the_phase_for_fractions():
    rng = np.random.default_rng(0)
    rirs = rng.normal(size=(3, 100))
    moved = shifted(rirs, np.array([0, 7, -4]))
    assert moved.shape == (3, 107)
    np.testing.assert_array_equal(moved[0, :100], rirs[0])
    np.testing.assert_array_equal(moved[1, 7:], rirs[1])
    np.testing.assert_array_equal(moved[2, :96], rirs[2, 4:])
    time = np.arange(400)
    pulse = np.sinc((time - 150) / 2)[None]
    np.testing.assert_allclose(shifted(pulse, np.array([3.3]))[0, :400], np.sinc((time - 153.3) / 2), atol=5e-3)


def test_latency(arrays, run, fails, rirs, tmp_path):
    late = np.pad(rirs, ((0, 0), (40, 0)))
    source = arrays(late)
    message = fails(*source, *FIXED)
    assert "latency: sound comes 2.3" in message
    assert message.endswith("--repair mends latency\n")
    assert "would refuse" in run(*source, *FIXED, "--dry-run")
    found, _, room, said = run(*source, *FIXED, "--repair", "latency")
    samples = float(re.search(r"repaired latency: ([\d.]+) samples", said)[1])
    assert samples == pytest.approx(40, abs=4)  # onsets lie 20 dB below the peak, and these ring before it
    np.testing.assert_allclose(np.abs(found).argmax(axis=1), np.abs(rirs).argmax(axis=1), atol=4)
    assert [one.kind for one in check_room(load_room(tmp_path / "studio" / "base"))] == ["band"]  # 16 kHz
    assert any("repaired latency" in line for line in room["imported"])
    kept, _, _, _ = run(*source, *FIXED, "--allow-faults", name="kept")
    np.testing.assert_allclose(kept, late, atol=1e-6)


@pytest.mark.parametrize("same", [True, False])
def test_units(same, arrays, run, fails, rirs, positions):
    source, receiver = arrays(rirs, 1000 * positions), RECEIVER * (1000 if same else 1)
    fixed = ["--rate", RATE, "--receiver", *receiver]
    assert "as if positions were in mm" in fails(*source, *fixed)
    _, xyzs, room, _ = run(*source, *fixed, "--repair")
    np.testing.assert_allclose(xyzs, positions)
    np.testing.assert_allclose(room["receiver_xyz"], RECEIVER)


def test_polarity(arrays, run, rirs):
    wrong = rirs.copy()
    wrong[[3, 5]] *= -1
    found, _, _, said = run(*arrays(wrong), *FIXED)
    np.testing.assert_allclose(found, wrong, atol=1e-6)  # a note stops nothing
    assert "note: polarity: RIRs 3, 5" in said
    found, _, _, said = run(*arrays(wrong), *FIXED, "--repair", "polarity", name="mended")
    np.testing.assert_allclose(found, rirs, atol=1e-6)
    assert "polarity:" not in said.split("repaired polarity:")[1]


def test_azimuths_that_two_microphones_hear_the_other_way_round(sofa, run, fails):
    azimuth = np.linspace(-80, 80, 14)
    turn = np.radians(azimuth)
    places = 1.5 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    microphones = np.array([[0.0, 0.09, 0], [0, -0.09, 0]])
    rirs = np.stack([rirs_of(places, microphone, rate=48_000) for microphone in microphones], axis=1)
    path = sofa(
        "SimpleFreeFieldHRIR", Data_IR=rirs, Data_Delay=np.zeros((1, 2)), Data_SamplingRate=48_000.0,
        Data_SamplingRate_Units="hertz", SourcePosition=np.stack([-azimuth, 0 * azimuth, 1.5 + 0 * azimuth], axis=1),
        SourcePosition_Type="spherical", SourcePosition_Units="degree, degree, metre",
        ReceiverPosition=microphones[..., None], ReceiverPosition_Type="cartesian", ReceiverPosition_Units="metre",
        ListenerPosition=np.zeros((1, 3)),
    )  # fmt: skip
    assert "azimuth: of two microphones" in fails(path, "--channel", "1")
    for way in ("--repair", "--clockwise"):
        _, xyzs, room, _ = run(path, "--channel", "1", way, name=way[2:])
        np.testing.assert_allclose(xyzs, places, atol=1e-6)
        assert room["receiver_xyz"] == [0, 0.09, 0]


def test_the_decay_is_said_where_noise_leaves_it(arrays, run, fails, rirs):
    said = run(*arrays(rirs), *FIXED, "--dry-run")
    assert "T20 0." in said
    noisy = rirs + 0.02 * np.random.default_rng(0).normal(size=rirs.shape)
    said = run(*arrays(noisy), *FIXED, "--dry-run")
    assert "no T20, which needs 35 dB before noise" in said
