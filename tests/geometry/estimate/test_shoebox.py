"""Against pyroomacoustics' image sources, whose code has nothing in common with the estimate."""

import json

import numpy as np
import pyroomacoustics as pra
import pytest

from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.geometry.estimate.echoes import echo_evidence, without_loudspeaker
from haa_peft.geometry.estimate.plausibility import check_surfaces
from haa_peft.geometry.estimate.shoebox import box_evidence, estimate_shoebox
from haa_peft.geometry.estimate.telling import telling
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.sources import Known, read_geometry
from haa_peft.geometry.surfaces import Surfaces

SIZE = np.array([6.3, 4.6, 2.9])
RECEIVER = np.array([2.2, 1.7, 1.2])
FS = 22_050


def measure(positions, absorption=0.3, order=6, clutter=2, noise=1e-3, size=SIZE, receiver=RECEIVER):
    """RIRs (N, 9600) with propagation delay, point scatterers and noise."""
    room = pra.ShoeBox(size, fs=FS, materials=pra.Material(absorption), max_order=order)
    room.add_source(receiver)
    room.add_microphone_array(positions.T)
    room.compute_rir()
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((len(positions), 9600))
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + 9600]
        row[: len(kept)] = kept
    rng = np.random.default_rng(4)
    for _ in range(clutter):
        scatterer = rng.uniform([0.2, 0.2, 0.2], size - 0.2)
        there, back = np.linalg.norm(scatterer - receiver), np.linalg.norm(positions - scatterer, axis=1)
        rirs += np.sinc(np.arange(9600) - (there + back[:, None]) / 343 * FS) * 0.4 / there / back[:, None] / 12.6
    return rirs + rng.normal(size=rirs.shape) * np.abs(rirs).max() * noise


@pytest.fixture(scope="module")
def positions():
    return np.random.default_rng(1).uniform([0.4, 0.4, 0.4], SIZE - [0.4, 0.4, 0.9], (12, 3))


@pytest.fixture(scope="module")
def rirs(positions):
    return measure(positions)


@pytest.fixture(scope="module")
def estimate(rirs, positions):
    return estimate_shoebox(rirs, positions, RECEIVER)


def test_finds_the_box_among_clutter_and_noise(estimate):
    np.testing.assert_allclose(estimate.origin, 0, atol=0.05)
    np.testing.assert_allclose(estimate.size, SIZE, atol=0.05)
    assert estimate.confident.all()
    assert estimate.telling.told.all()
    assert np.isnan(estimate.other_reading).all()
    truth = np.stack([np.zeros(3), SIZE], axis=1).ravel()
    assert ((estimate.low < truth) & (truth < estimate.high)).all()
    assert ((estimate.size_interval[:, 0] < SIZE) & (estimate.size_interval[:, 1] > SIZE)).all()
    low, high = estimate.surfaces.bounds()
    np.testing.assert_allclose(np.stack([low, high], axis=1).ravel(), estimate.offsets)
    assert "6.3" in estimate.in_words()
    assert json.loads(json.dumps(estimate.to_json()))["walls"]["ceiling"]["confident"]


def test_needs_no_floor_nor_origin(rirs, positions):
    moved = np.array([-3.0, 20.0, -7.0])
    estimate = estimate_shoebox(rirs, positions + moved, RECEIVER + moved)
    assert estimate.floor is None  # positions lie below z = 0, so that cannot be the floor
    np.testing.assert_allclose(estimate.origin, moved, atol=0.05)
    np.testing.assert_allclose(estimate.size, SIZE, atol=0.05)


def test_a_loudspeaker_that_rings_is_taken_off(rirs, positions):
    rng = np.random.default_rng(2)
    response = rng.normal(size=60) * np.exp(-np.arange(60) / 10) * 0.5
    response[0] = 1
    ringing = np.apply_along_axis(np.convolve, 1, rirs, response)[:, :9600]
    onset = np.rint(np.linalg.norm(positions - RECEIVER, axis=1) / 343 * FS).astype(int)
    taken_off = without_loudspeaker(ringing, onset)

    def ring(rows):  # energy 10 to 30 samples after the direct sound, over the direct sound's
        return np.median(
            [(r[t + 10 : t + 30] ** 2).sum() / (r[t - 3 : t + 4] ** 2).sum() for r, t in zip(rows, onset, strict=True)]
        )

    assert ring(taken_off) < 0.3 * ring(ringing)
    estimate = estimate_shoebox(ringing, positions, RECEIVER)
    np.testing.assert_allclose(estimate.size, SIZE, atol=0.1)


def test_the_true_box_has_more_evidence_than_any_with_one_wall_moved(rirs, positions):
    evidence = echo_evidence(rirs, positions, RECEIVER)
    truth = np.stack([np.zeros(3), SIZE], axis=1).ravel()
    moved = np.repeat(truth[None], 24, axis=0)
    for i in range(24):
        moved[i, i // 4] += [-0.3, 0.3, -1, 1][i % 4]
    found = box_evidence(evidence, np.vstack([truth, moved]), telling(positions, RECEIVER))
    assert (found[0] > found[1:] + 5).all()


def test_without_echoes_nothing_is_claimed(positions):
    rng = np.random.default_rng(3)
    distance = np.linalg.norm(positions - RECEIVER, axis=1)
    time = np.arange(9600) - distance[:, None] / 343 * FS
    tail = rng.normal(size=time.shape) * np.exp(-time.clip(0) / 1500) * 0.02 * (time > 0)
    estimate = estimate_shoebox(np.sinc(time) / distance[:, None] + tail, positions, RECEIVER, floor=None)
    assert not estimate.confident.any()
    assert (estimate.high - estimate.low > 1).all()
    assert "uncertain: x low" in estimate.in_words()


def test_one_plane_of_positions_is_said_to_be_ambiguous(positions):
    level = positions.copy()
    level[:, 2] = RECEIVER[2]
    estimate = estimate_shoebox(measure(level), level, RECEIVER)
    assert estimate.telling.shared == [2]
    assert not estimate.confident[4:].any()
    assert "positions share their z" in estimate.in_words()
    np.testing.assert_allclose(estimate.size, SIZE, atol=0.1)  # z = 0 was probably the floor, and is
    np.testing.assert_allclose(estimate.origin, 0, atol=0.1)


def test_echoes_contradict_a_wall_that_is_elsewhere(rirs, positions, estimate):
    right = check_surfaces(rirs, positions, RECEIVER, Surfaces.shoebox(SIZE), estimate)
    assert right.contradictions == []
    assert all(echo.heard and echo.paths == 12 for echo in right.surfaces)
    wrong = check_surfaces(rirs, positions, RECEIVER, Surfaces.shoebox(SIZE + np.array([1.0, 0, 0])), estimate)
    (sentence,) = wrong.contradictions
    assert "x high: echoes of a wall at 6.3" in sentence
    assert "is at 7.30 m, where no echo is heard" in sentence
    assert [echo.heard for echo in wrong.surfaces] == [True, False, True, True, True, True]
    # a panel of 10 cm has no specular echo at any of these positions, and a missing wall is one
    panel = Surfaces(np.array([[[1, 1, 0.1], [1.1, 1, 0.1], [1, 1.1, 0.1]]]), np.array([False]))
    alone = check_surfaces(rirs, positions, RECEIVER, panel, estimate)
    assert alone.surfaces[0].heard is None
    assert sum("no surface faces that way" in sentence for sentence in alone.contradictions) == 5
    assert json.loads(json.dumps(alone.to_json()))["surfaces"][0]["paths"] < 3


def test_bad_input(rirs, positions):
    with pytest.raises(InputError, match="2 measurements are too few"):
        estimate_shoebox(rirs[:2], positions[:2], RECEIVER)
    with pytest.raises(InputError, match=r"positions \(11, 3\)"):
        estimate_shoebox(rirs, positions[:11], RECEIVER)
    with pytest.raises(InputError, match="ends within 33 ms of its direct sound"):
        estimate_shoebox(rirs[:, :800], positions, RECEIVER)
    broken = rirs.copy()
    broken[3, 100] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        estimate_shoebox(broken, positions, RECEIVER)
    silent = estimate_shoebox(np.zeros_like(rirs), positions, RECEIVER)
    assert not silent.confident.any()


def test_the_command_prints_and_writes(room_folder, tmp_path, capsys, rirs, positions):
    np.save(room_folder / "RIRs.npy", rirs)
    np.save(room_folder / "xyzs.npy", positions)
    room = {"sample_rate": FS, "receiver_xyz": RECEIVER.tolist(), "room_size": [6.3, 5.6, 2.9]}
    (room_folder / "room.json").write_text(json.dumps(room))
    main(["geometry", str(room_folder), "--from-sound", "--json", str(tmp_path / "box.json")])
    printed = capsys.readouterr().out
    assert "studio/base: a shoebox of 6.3" in printed
    assert "contradiction: y high: echoes of a wall at 4." in printed
    written = json.loads((tmp_path / "box.json").read_text())
    np.testing.assert_allclose(written["size"], SIZE, atol=0.05)
    assert len(written["given"]["contradictions"]) == 1


def test_r3vival_000_within_half_a_metre(shared_data):
    from haa_peft import load_room

    room = load_room(shared_data / "r3vival" / "000")
    train = room.splits["train"]
    estimate = estimate_shoebox(room.rirs[train], room.positions[train], room.receiver)
    np.testing.assert_allclose(estimate.size, [9.7, 5.5, 2.7], atol=0.5)
    assert estimate.telling.shared == [2]


def test_a_room_whose_geometry_is_its_sound(rirs, positions, tmp_path):
    known = Known.of(RECEIVER, positions, rirs, np.arange(12))
    found = read_geometry("sound", tmp_path, known, "room.json")
    truth = render_depth(Surfaces.shoebox(SIZE), RECEIVER, directions())
    np.testing.assert_allclose(found.depth, truth, atol=0.15)
    assert (found.trust, found.source) == ("estimated", "echoes of the training measurements")
    assert "a shoebox of 6.3" in found.notes[0]
    with pytest.raises(InputError, match="geometry from sound needs 3 training measurements"):
        read_geometry({"sound": "shoebox"}, tmp_path, Known.of(RECEIVER, positions, rirs, np.arange(2)), "room.json")
    with pytest.raises(InputError, match="geometry sound is 'mesh' but must be one of shoebox"):
        read_geometry({"sound": "mesh"}, tmp_path, known, "room.json")
