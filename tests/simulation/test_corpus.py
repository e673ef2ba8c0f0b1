import dataclasses

import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.simulation import corpus as corpus_module
from haa_peft.simulation.corpus import Corpus, shard_path, simulate_corpus
from haa_peft.simulation.draw import PLANS, DrawnRoom, Face, _box, draw_room, eyring_absorption
from haa_peft.simulation.simulate import edge_points, share_inside, simulate


def even_room(t60, **changes):
    """A box of one material, simulated as one unless ``changes`` say otherwise."""
    x, y, z = size = np.array([6.0, 5.0, 3.0])
    absorption = np.full(7, eyring_absorption(x * y * z, 2 * (x * y + x * z + y * z), t60))
    corners = {
        (-1, 0, 0): [[0, 0, 0], [0, y, 0], [0, y, z], [0, 0, z]],
        (1, 0, 0): [[x, 0, 0], [x, y, 0], [x, y, z], [x, 0, z]],
        (0, -1, 0): [[0, 0, 0], [x, 0, 0], [x, 0, z], [0, 0, z]],
        (0, 1, 0): [[0, y, 0], [x, y, 0], [x, y, z], [0, y, z]],
        (0, 0, -1): [[0, 0, 0], [x, 0, 0], [x, y, 0], [0, y, 0]],
        (0, 0, 1): [[0, 0, z], [x, 0, z], [x, y, z], [0, y, z]],
    }
    walls = [Face(np.array(c, dtype=float), absorption, np.array(out, dtype=float)) for out, c in corners.items()]
    positions = np.array([[4.5, 3.5, 1.5], [1.0, 4.0, 1.0], [5.0, 1.0, 2.0]])
    room = DrawnRoom(
        plan="box",
        size=size,
        is_box=True,
        walls=walls,
        obstacles=[],
        scattering=0.3,
        facing=None,
        beam=np.ones(7),
        rear=np.full(7, 0.2),
        receiver=np.array([1.5, 1.5, 1.2]),
        positions=positions,
        t60=t60,
        volume=float(x * y * z),
    )
    return dataclasses.replace(room, **changes)


def decay_time(rirs):
    """From -5 to -25 dB."""
    decay = np.cumsum(rirs[:, ::-1] ** 2, axis=1)[:, ::-1]
    level = 10 * np.log10(decay / decay[:, :1] + 1e-12)
    return np.mean([3 * ((row < -25).argmax() - (row < -5).argmax()) / 22_050 for row in level])


@pytest.mark.parametrize("is_box", [True, False])
@pytest.mark.parametrize("t60", [0.2, 0.4])
def test_decay_is_eyrings_and_sound_arrives_in_time(t60, is_box):
    """The same room as a box of many images and as a polyhedron of few: image sources or rays, it decays alike."""
    room = even_room(t60, is_box=is_box)
    rirs = simulate(room, (0, 1))
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    onset = (np.abs(rirs) > 0.5 * np.abs(rirs).max(axis=1, keepdims=True)).argmax(axis=1)
    assert np.abs(onset - distance / 343 * 22_050).max() <= 2
    assert decay_time(rirs) == pytest.approx(t60, rel=0.2)


@pytest.mark.parametrize("is_box", [True, False])
def test_decay_has_no_kink_where_image_sources_end(is_box):
    """From 20 ms on the level over time is a straight line to 1.5 dB."""
    rirs = simulate(even_room(0.4, is_box=is_box, positions=draw_positions(16)), (0, 2))
    level = 10 * np.log10((rirs[:, : 220 * 40] ** 2).reshape(16, 40, 220).mean(axis=(0, 2)))[2:34]
    time = np.arange(len(level))
    line = np.polyval(np.polyfit(time, level, 1), time)
    assert np.abs(level - line).max() < 1.5


def draw_positions(count):
    positions = np.random.default_rng(0).uniform([0.4, 0.4, 0.5], [5.6, 4.6, 2.3], (200, 3))
    return positions[np.linalg.norm(positions - [1.5, 1.5, 1.2], axis=1) > 1][:count]


@pytest.mark.parametrize("is_box", [True, False])
@pytest.mark.parametrize("t60", [0.4, 0.8])
def test_reflected_energy_is_barrons(t60, is_box):
    """16 pi / A exp(-0.04 d / T), direct sound at 1 m being 1 (Barron and Lee 1988), at every position to 1 dB."""
    room = even_room(t60, is_box=is_box, positions=draw_positions(16))
    energy = (simulate(room, (0, 4)).astype(float) ** 2).sum(axis=1)
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    area = sum(wall.area * wall.absorption[0] for wall in room.walls)
    theory = 16 * np.pi / area * np.exp(-0.04 * distance / t60)
    ratio = 10 * np.log10((energy - distance**-2) / theory)
    assert np.abs(ratio).max() < 1
    assert abs(ratio.mean()) < 0.4


def test_two_runs_of_a_room_are_alike():
    """What is left to chance: clarity, and the sum of energy, differ by less than a just-noticeable difference."""
    room = even_room(0.8, positions=draw_positions(16))
    energies = [simulate(room, (0, seed)).astype(float) ** 2 for seed in (6, 7)]
    clarity = [10 * np.log10(e[:, :1102].sum(axis=1) / e[:, 1102:].sum(axis=1)) for e in energies]
    assert np.abs(clarity[0] - clarity[1]).mean() < 0.6


@pytest.mark.parametrize("x", [0.2, 0.6, 1.5])
def test_rays_near_a_wall_are_made_up_for(x):
    """A plane at x radii leaves 1/2 + x - x^2 / 2 of the closest points of isotropic lines."""
    box = Surfaces.shoebox([20.0, 20.0, 20.0])
    left = share_inside(box, np.array([10.0, 10.0, x * 1.2]), 1.2)
    assert left == pytest.approx(0.5 + min(x, 1) - min(x, 1) ** 2 / 2, abs=0.01)
    assert share_inside(box, np.array([0.01, 0.01, 0.01]), 1.2) == pytest.approx(1 / 8, abs=0.02)


def test_direct_sound_goes_round_an_edge():
    """Behind a high panel, past its side, weaker by ISO 9613-2's 10 log10(3 + 20 N), N = 2 detour / wavelength."""
    panel = _box(np.array([2.95, 0.3, 0.01]), np.array([3.0, 2.1, 2.9]), np.full(7, 0.95))
    behind = np.array([4.5, 1.5, 1.2])
    dead = even_room(0.02, positions=behind[None], is_box=False, obstacles=panel)
    rir = simulate(dead, (0, 8))[0]
    length = 2 * np.hypot(1.475, 0.63) + 0.05
    arrival = int(length / 343 * 22_050)
    spectrum = np.abs(np.fft.rfft(rir[arrival - 60 : arrival + 60], 4096))
    frequencies = np.fft.rfftfreq(4096, 1 / 22_050)
    for hertz in (1000, 2000, 4000):
        number = 2 * (length - 3.0) * hertz / 343
        found = spectrum[(frequencies > hertz * 0.95) & (frequencies < hertz * 1.05)].mean()
        assert 20 * np.log10(found * length * np.sqrt(3 + 20 * number)) == pytest.approx(0, abs=1.5)


def test_edges_are_those_of_obstacles_and_inward_corners():
    assert len(edge_points(even_room(0.3))) == 0
    inward = [room for room in (draw_room(0, i) for i in range(60)) if room.plan == "L" and not room.obstacles]
    assert inward
    for room in inward:
        points = edge_points(room)
        assert len(points) == 9
        assert np.ptp(points[:, :2], axis=0) == pytest.approx([0, 0])


def test_a_beam_is_louder_ahead():
    ahead, behind = np.array([4.5, 1.5, 1.2]), np.array([0.5, 1.5, 1.2])
    room = even_room(0.2, positions=np.stack([ahead, behind]))
    turned = dataclasses.replace(room, facing=np.array([1.0, 0, 0]), beam=np.ones(7), rear=np.full(7, 0.1))
    peaks = [np.abs(simulate(r, (0, 3))).max(axis=1) for r in (room, turned)]
    ratio = peaks[1] / peaks[0]
    assert ratio == pytest.approx([1.0, 0.1], rel=0.35)


def test_rooms_are_deterministic_and_differ():
    first, again, other = draw_room(0, 3), draw_room(0, 3), draw_room(0, 4)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert not np.array_equal(first.size, other.size)
    np.testing.assert_array_equal(simulate(even_room(0.2), (0, 5)), simulate(even_room(0.2), (0, 5)))


@pytest.mark.parametrize("odd", [False, True])
def test_drawn_rooms_are_closed_and_hold_their_positions(odd):
    rays = directions(16, 32)
    plans, directional, sloped = set(), 0, 0
    for index in range(80):
        room = draw_room(1, index, odd=odd)
        assert room.positions.shape == (16, 3)
        plans.add(room.plan)
        directional += room.facing is not None
        sloped += len({round(float(z), 6) for z in room.walls[-1].corners[:, 2]}) > 1
        for place in (room.receiver, *room.positions[:3]):
            depth = render_depth(room.surfaces, place, rays)
            assert np.isfinite(depth).all(), index  # every ray from the air ends at a surface
            assert depth.min() > 0.05
        assert np.linalg.norm(room.positions - room.receiver, axis=1).min() >= 0.4
        # the walls' volume by the divergence theorem
        volume = 0.0
        for wall in room.walls:
            normal = wall.outwards / np.linalg.norm(wall.outwards)
            volume += wall.area * float(wall.corners[0] @ normal) / 3
        assert volume == pytest.approx(room.volume, rel=1e-6)
        assert (2000 <= room.volume <= 6000) if odd else (15 <= room.volume <= 2000)
    assert plans == set(PLANS) - ({"box", "corridor"} if odd else set())
    assert 20 < directional < 60
    assert 5 < sloped < 40


def test_corpus_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "ROOMS_PER_SHARD", 1)
    simulate_corpus(tmp_path, 1, seed=0, workers=1)
    first = shard_path(tmp_path, 0)
    made = first.stat().st_mtime_ns
    simulate_corpus(tmp_path, 2, seed=0, workers=1)
    assert first.stat().st_mtime_ns == made
    corpus = Corpus(tmp_path)
    assert len(corpus) == 2
    assert len(Corpus(tmp_path, 1)) == 1
    for index in range(2):
        found, drawn = corpus[index], draw_room(0, index)
        assert found.rirs.shape == (16, 9600)
        assert np.abs(found.rirs).max() == pytest.approx(1, rel=1e-3)
        np.testing.assert_allclose(found.positions, drawn.positions, rtol=1e-6)
        np.testing.assert_allclose(found.surfaces.points, drawn.surfaces.points, atol=1e-5)
        assert corpus.rows[index]["plan"] == drawn.plan
    with pytest.raises(InputError, match="holds another corpus"):
        simulate_corpus(tmp_path, 1, seed=9)
    with pytest.raises(InputError, match="holds no rooms"):
        Corpus(tmp_path / "empty")
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read as a corpus"):
        Corpus(tmp_path)


def test_a_corpus_streams(tmp_path, monkeypatch):
    from datasets import load_dataset

    monkeypatch.setattr(corpus_module, "ROOMS_PER_SHARD", 1)
    monkeypatch.setattr(corpus_module, "simulate", lambda room, seed: np.ones((16, 9600), np.float32))
    for shard in range(2):
        corpus_module.write_shard(tmp_path, 0, False, shard)
    rows = load_dataset("arrow", data_files=str(tmp_path / "*.arrow"), split="train", streaming=True)
    assert [row["index"] for row in rows] == [0, 1]
