"""Simulated twins: what they promise about acoustics, and a cache that holds only whole ones."""

import dataclasses
import json
import threading

import numpy as np
import pyroomacoustics
import pytest

from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.haa import haa_facts
from haa_peft.rooms.load import load_room
from haa_peft.simulation import twin_simulation, twins
from haa_peft.simulation.cache import FILES
from haa_peft.simulation.simulate import band_responses, edge_points, round_the_edges

N = 18
DAMPENED = ("base", "rotation", "panel")


@pytest.fixture(scope="module")
def dampened(tmp_path_factory):
    """Per configuration: RIRs as stored (N, 13230), position minus loudspeaker (N, 3), folder."""
    cache = tmp_path_factory.mktemp("twins")
    made = {}
    for configuration in DAMPENED:
        folder = twins.make_twin(f"dampened-twin/{configuration}", n_positions=N, folder=cache)
        loudspeaker = np.array(json.loads((folder / "room.json").read_text())["receiver_xyz"])
        made[configuration] = np.load(folder / "RIRs.npy"), np.load(folder / "xyzs.npy") - loudspeaker, folder
    return made


@pytest.fixture
def silent_simulation(monkeypatch, tmp_path):
    """Noise instead of a simulation, and the calls that asked for it."""
    calls = []

    def simulate(twin, positions, name, seed):
        calls.append(name)
        return np.random.default_rng(seed).normal(size=(len(positions), twins.LENGTH)).astype(np.float32)

    monkeypatch.setattr(twins, "simulate_twin", simulate)
    monkeypatch.setenv("HAA_PEFT_CACHE", str(tmp_path / "cache"))
    return calls


def direct_sound(rirs, offsets):
    """Time of the largest sample near d / 343 s, in samples from it, and its level in dB at 1 m."""
    distance = np.linalg.norm(offsets, axis=1)
    expected = distance / 343 * SAMPLE_RATE
    window = np.round(expected).astype(int)[:, None] + np.arange(-15, 16)
    near = np.abs(np.take_along_axis(rirs, window, axis=1))
    late = np.take_along_axis(window, near.argmax(axis=1)[:, None], axis=1)[:, 0] - expected
    return late, 20 * np.log10(near.max(axis=1) * distance)


def angle_cosine(offsets, direction):
    return offsets @ np.array(direction) / np.linalg.norm(offsets, axis=1)


def test_every_room_has_its_configurations():
    for room in ("classroom", "dampened"):
        assert {f"{room}-twin/{c}" for c in ("base", "rotation", "translation", "panel")} <= set(twins.twin_names())
    assert twins.is_twin_name("dampened-twin/panel")
    for other in ("classroom-twin", "classroom-twin/panel9", "complex-twin/base", "", "classroomBase"):
        assert not twins.is_twin_name(other)


def test_direct_sound_arrives_at_the_speed_of_sound(dampened):
    rirs, offsets, _ = dampened["base"]
    late, _ = direct_sound(rirs, offsets)
    assert np.abs(late).max() < 1.5


def test_nothing_comes_before_the_direct_sound(dampened):
    rirs, offsets, _ = dampened["base"]
    before = (np.linalg.norm(offsets, axis=1) / 343 * SAMPLE_RATE).astype(int) - 45
    early = [
        np.abs(rir[:until]).max() / np.abs(rir).max() for rir, until in zip(rirs, before, strict=True) if until > 0
    ]
    assert len(early) > N / 2
    assert max(early) < 0.01


@pytest.mark.parametrize(
    ("name", "low", "high"), [("dampened-twin/base", 0.12, 0.18), ("classroom-twin/base", 0.6, 0.7)]
)
def test_decay_times_are_near_those_of_haa(name, low, high, tmp_path):
    room = load_room(twins.make_twin(name, n_positions=14, folder=tmp_path))
    assert low < paper_metrics(room.rirs, SAMPLE_RATE)["t60_20_s"].mean() < high


def test_loudspeaker_is_louder_in_front_than_behind(dampened):
    rirs, offsets, _ = dampened["base"]
    _, level = direct_sound(rirs, offsets)
    cosine = angle_cosine(offsets, [0, -1, 0])
    assert level[cosine > 0.6].mean() - level[cosine < -0.6].mean() > 8


def test_loudspeaker_narrows_towards_high_frequencies(dampened):
    rirs, offsets, _ = dampened["base"]
    cosine = angle_cosine(offsets, [0, -1, 0])
    start = np.round(np.linalg.norm(offsets, axis=1) / 343 * SAMPLE_RATE).astype(int)[:, None] - 8
    window = np.take_along_axis(rirs, start + np.arange(48), axis=1) * np.linalg.norm(offsets, axis=1)[:, None]
    power = np.abs(np.fft.rfft(window, 512)) ** 2
    frequency = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    ratio = []
    for low, high in ((500, 1000), (4000, 8000)):
        band = power[:, (frequency >= low) & (frequency < high)].sum(axis=1)
        ratio.append(10 * np.log10(band[cosine > 0.6].mean() / band[cosine < -0.6].mean()))
    assert ratio[1] > ratio[0] + 4
    assert ratio[0] > 2


def test_rotation_turns_the_loudspeaker_to_plus_x(dampened):
    rirs, offsets, _ = dampened["rotation"]
    _, level = direct_sound(rirs, offsets)
    _, unturned = direct_sound(*dampened["base"][:2])
    cosine = angle_cosine(offsets, [1, 0, 0])
    assert level[cosine > 0.6].mean() - level[cosine < -0.6].mean() > 8
    assert (level - unturned)[cosine > 0.6].mean() > 3
    assert (level - unturned)[cosine < -0.6].mean() < -1


def test_loudspeaker_response_shapes_every_rir(monkeypatch, dampened, tmp_path):
    monkeypatch.setattr(twin_simulation, "RESPONSE_DB", (0,) * len(twin_simulation.RESPONSE_HZ))
    flat = np.load(twins.make_twin("dampened-twin/base", n_positions=N, folder=tmp_path) / "RIRs.npy")
    coloured, _, _ = dampened["base"]
    ratio = np.sqrt((np.abs(np.fft.rfft(coloured)) ** 2).sum(axis=0) / (np.abs(np.fft.rfft(flat)) ** 2).sum(axis=0))
    frequency = np.fft.rfftfreq(coloured.shape[1], 1 / SAMPLE_RATE)
    for hz, db in ((180, 2), (700, -1.5), (1200, 1), (3200, 1.5), (8000, -2)):
        near = np.abs(frequency - hz) < 10
        assert 20 * np.log10(ratio[near].mean()) == pytest.approx(db, abs=0.5)


def test_noise_is_stationary_and_as_loud_as_stated(dampened):
    rirs, offsets, _ = dampened["base"]
    tail = rirs[:, -4800:]  # 0.15 s of decay time are long over
    parts = 20 * np.log10(tail.reshape(N, 4, 1200).std(axis=2))
    np.testing.assert_allclose(parts, -90, atol=1)
    correlation = np.corrcoef(tail)
    assert np.abs(correlation[~np.eye(N, dtype=bool)]).max() < 0.1
    # the other end of the scale: the direct sound in front, brought to 1 m
    _, level = direct_sound(rirs, offsets)
    assert -6 < level.max() < 2


def test_configurations_share_positions_and_differ_in_sound(dampened):
    positions = [np.load(folder / "xyzs.npy") for _, _, folder in dampened.values()]
    for other, configuration in zip(positions[1:], DAMPENED[1:], strict=True):
        np.testing.assert_array_equal(positions[0], other)
        assert np.abs(dampened["base"][0] - dampened[configuration][0]).max() > 0.05


def test_panel_takes_the_direct_sound_behind_it_only(dampened):
    _, base = direct_sound(*dampened["base"][:2])
    rirs, offsets, folder = dampened["panel"]
    _, level = direct_sound(rirs, offsets)
    panel = np.array(json.loads((folder / "room.json").read_text())["surfaces"][-1]["points"])
    loudspeaker = np.load(folder / "xyzs.npy")[0] - offsets[0]
    reach = (panel[0, 1] - loudspeaker[1]) / offsets[:, 1]
    crossing = loudspeaker + reach[:, None] * offsets
    inside = (crossing[:, [0, 2]] > panel[:, [0, 2]].min(0)) & (crossing[:, [0, 2]] < panel[:, [0, 2]].max(0))
    behind = inside.all(axis=1) & (reach > 0) & (reach < 1)
    assert 4 <= behind.sum() <= N - 8
    assert (base - level)[behind].mean() > 8
    assert (base - level)[reach < 0].mean() < 1.5


def test_diffraction_is_near_that_of_a_knife_edge():
    """Against ITU-R P.526-15, equation 31, for a screen with one edge in reach."""
    far = [[-498, 2.5, -500], [502, 2.5, -500], [-498, 2.5, 1.3]]
    bands = band_responses(pyroomacoustics.acoustics.OctaveBandsFactory(fs=SAMPLE_RATE), 10_240)
    base = twins.all_twins()["dampened-twin/base"]
    twin = dataclasses.replace(
        base,
        surfaces=Surfaces.from_json([*base.surfaces.to_json(), {"points": far}], "screen"),
        loudspeaker=np.array([2.0, 4.5, 1.0]),
    )
    for z in (1.0, 0.4):
        position = np.array([2.0, 0.5, z])
        distance = np.linalg.norm(position - twin.loudspeaker)
        edge = np.linalg.norm([2.0, 0.3]) + np.linalg.norm([2.0, 1.3 - z])
        drawn = twin_simulation.drawn_twin(twin, position[None])
        spectrum = np.abs(np.fft.rfft(round_the_edges(drawn, drawn.surfaces, position, bands)))
        frequency = np.fft.rfftfreq(10_240, 1 / SAMPLE_RATE)
        for hz in (500, 2000, 4000):
            v = np.sqrt(4 * (edge - distance) * hz / 343)
            loss = 6.9 + 20 * np.log10(np.sqrt((v - 0.1) ** 2 + 1) + v - 0.1)
            level = 20 * np.log10(spectrum[np.abs(frequency - hz).argmin()] * distance)
            assert level == pytest.approx(-loss, abs=4)


def test_edges_of_a_turned_plate_are_those_of_the_same_one_turned():
    """Against ``edge_points`` of the plate along an axis, each point turned by hand."""
    base = twins.all_twins()["hallway-twin/base"]
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    straight = np.array([[0.5, 8.0, 1.8], [0.5, 8.0, 0.2], [1.0, 8.0, 1.8]])
    found = []
    for plate in (straight, straight @ turn.T):
        surfaces = Surfaces.from_json([*base.surfaces.to_json(), {"points": plate.tolist()}], "plate")
        twin = dataclasses.replace(base, surfaces=surfaces)
        found.append(edge_points(twin_simulation.drawn_twin(twin, np.zeros((1, 3)))))
    straight_points, turned_points = found
    distance = np.linalg.norm(turned_points[:, None] - straight_points @ turn.T, axis=2)
    assert len(straight_points) == len(turned_points)
    assert distance.min(axis=0).max() < 1e-5


@pytest.mark.parametrize("room", ["classroom-twin", "dampened-twin", "hallway-twin"])
def test_positions_keep_clear_and_cover_the_room(room):
    configurations = [twin for name, twin in twins.all_twins().items() if name.startswith(room)]
    low, high = configurations[0].surfaces.bounds()
    for seed in (0, 1):
        positions = twins.draw_positions(room, seed, 60)
        assert (positions >= low + 0.3).all()
        assert (positions <= high - 0.3).all()
        for twin in configurations:
            assert np.linalg.norm(positions - twin.loudspeaker, axis=1).min() >= 0.5
            for corner, first, second in twin.surfaces.points[6:]:
                a, b = np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1, 41))
                patch = corner + a[..., None] * (first - corner) + b[..., None] * (second - corner)
                assert np.linalg.norm(positions[:, None] - patch.reshape(1, -1, 3), axis=2).min() >= 0.29
        quarter = (positions[:, :2] > (low + high)[:2] / 2) @ [1, 2]
        assert np.bincount(quarter, minlength=4).min() >= 8


def test_same_seed_same_bits(dampened, tmp_path):
    again = twins.make_twin("dampened-twin/base", n_positions=N, folder=tmp_path)
    for file in FILES:
        assert (again / file).read_bytes() == (dampened["base"][2] / file).read_bytes()


def test_another_seed_gives_other_positions_and_rirs(silent_simulation):
    folders = [twins.make_twin("dampened-twin/base", seed=seed, n_positions=14) for seed in (0, 1)]
    for file in ("RIRs.npy", "xyzs.npy"):
        assert not np.array_equal(*(np.load(folder / file) for folder in folders))


def test_is_made_once_by_its_name(silent_simulation, tmp_path, capsys):
    room = load_room("classroom-twin/panel")
    assert capsys.readouterr().err.count("\n") == 1
    load_room("classroom-twin/panel")
    assert silent_simulation == ["classroom-twin/panel"]
    assert capsys.readouterr().err == ""
    assert room.name == "classroom-twin/panel"
    assert room.licence == "Apache-2.0"
    assert room.source.startswith("simulated")
    facts = haa_facts()["classroomBase"]
    np.testing.assert_array_equal(room.receiver, facts["speaker_xyz"])
    assert len(room.surfaces) == len(facts["surfaces"]) + 1
    assert [len(room.splits[split]) for split in ("train", "valid", "test")] == [12, 24, 24]
    assert list((tmp_path / "cache").rglob(".*")) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_make_leaves_nothing(stop, silent_simulation, monkeypatch, tmp_path):
    def simulate(*_):
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr(twins, "simulate_twin", simulate)
        with pytest.raises((KeyboardInterrupt, InputError)):
            twins.make_twin("dampened-twin/base", n_positions=14)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() or "seed" in path.name] == []
    twins.make_twin("dampened-twin/base", n_positions=14)
    assert silent_simulation == ["dampened-twin/base"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("keep", [None, 0, 200])
def test_a_damaged_twin_is_made_again(file, keep, silent_simulation):
    damaged = twins.make_twin("dampened-twin/base", n_positions=14) / file
    whole = damaged.read_bytes()
    damaged.unlink() if keep is None else damaged.write_bytes(whole[:keep])
    twins.make_twin("dampened-twin/base", n_positions=14)
    assert damaged.read_bytes() == whole
    assert len(silent_simulation) == 2


def test_two_at_once_both_end_well(silent_simulation, monkeypatch, tmp_path):
    both_simulate = threading.Barrier(2)
    simulate = twins.simulate_twin
    monkeypatch.setattr(twins, "simulate_twin", lambda *given: (both_simulate.wait(10), simulate(*given))[1])
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(twins.make_twin("dampened-twin/base", n_positions=14)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(silent_simulation) == 2
    assert len(made) == 2
    assert made[0] == made[1]
    assert load_room(made[0]).configuration == "base"
    assert len(list((tmp_path / "cache" / "twins" / "dampened-twin").iterdir())) == 1


def test_a_cache_that_cannot_be_written_says_what_to_set(silent_simulation, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HAA_PEFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set HAA_PEFT_CACHE") as caught:
        twins.make_twin("dampened-twin/base")
    assert "\n" not in str(caught.value)
    assert silent_simulation == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "classroom-twin/panel9"},
            "classroom-twin/panel9: no such twin; must be one of .*classroom-twin/base",
        ),
        ({"name": "classroom-twin/base", "n_positions": 13}, "n_positions is 13 but must be at least 14"),
        ({"name": "classroom-twin/base", "seed": -1}, "seed is -1 but must be at least 0"),
    ],
)
def test_what_cannot_be_made_is_said(given, message):
    with pytest.raises(InputError, match=message):
        twins.make_twin(**given)
