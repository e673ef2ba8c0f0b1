"""Transformed simulations against simulations of the transformed room: image sources, which hold no chance."""

import dataclasses

import numpy as np
import pyroomacoustics as pra
import pytest

from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.augmentation.transform import CLEARANCE, mirrored, rotated, scaled, seen_from, stretched_between
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.room import Room

ABSORPTION = (0.1, 0.35, 0.2, 0.5, 0.15, 0.3)
"""Of the walls, each another, so that none can take another's place."""
SIZE, RECEIVER = np.array([7.0, 4.5, 2.8]), np.array([2.2, 1.7, 1.3])
LEAD = pra.constants.get("frac_delay_length") // 2
"""Samples that pyroomacoustics puts before every RIR."""


def simulate(room, order=3):
    """RIRs (N, 9600) in the room's surfaces, receiver and positions, wherever these lie."""
    walls = []
    middle = room.surfaces.points.mean(axis=(0, 1))
    for (corner, first, second), absorption in zip(room.surfaces.points, ABSORPTION, strict=True):
        wall = np.array([corner, first, first + second - corner, second])
        if np.cross(first - corner, second - corner) @ (wall.mean(axis=0) - middle) < 0:
            wall = wall[::-1]
        walls.append(pra.wall_factory(wall.T, np.array([absorption]), np.array([0.0])))
    simulated = pra.Room(walls, fs=SAMPLE_RATE, max_order=order, air_absorption=False)
    simulated.add_microphone(room.receiver)
    for position in room.positions:
        simulated.add_source(position)
    simulated.compute_rir()
    return cut(simulated.rir[0])


def cut(rirs):
    rirs = [rir[LEAD:][:9600] for rir in rirs]
    return np.array([np.pad(rir, (0, 9600 - len(rir))) for rir in rirs])


@pytest.fixture(scope="module", autouse=True)
def _no_filter():
    """pyroomacoustics takes off what lies below 10 Hz, which an enlarged room would have below 10 Hz / s."""
    before = pra.constants.get("rir_hpf_enable")
    pra.constants.set("rir_hpf_enable", False)
    yield
    pra.constants.set("rir_hpf_enable", before)


@pytest.fixture(scope="module")
def room():
    positions = np.random.default_rng(0).uniform(0.4, SIZE - 0.4, (8, 3))
    splits = {name: np.array(rows, dtype=int) for name, rows in (("train", range(6)), ("valid", [6]), ("test", [7]))}
    silent = Room(
        "box", "base", np.zeros((8, 9600), np.float32), positions, RECEIVER, Surfaces.shoebox(SIZE), splits, 1
    )
    return dataclasses.replace(silent, rirs=simulate(silent).astype(np.float32)).with_splits(splits)


def difference(found, true):
    return np.linalg.norm(found - true) / np.linalg.norm(true)


def below(rirs, frequency):
    spectrum = np.fft.rfft(rirs)
    spectrum[..., np.fft.rfftfreq(rirs.shape[-1], 1 / SAMPLE_RATE) > frequency] = 0
    return np.fft.irfft(spectrum)


SYMMETRIES = {
    "quarter turn": lambda room: rotated(room, 90),
    "turn": lambda room: rotated(room, 37.3),
    "mirror x": lambda room: mirrored(room, "x"),
    "mirror y": lambda room: mirrored(room, "y"),
    "mirror and turn": lambda room: rotated(mirrored(room, "x"), 200),
}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_turned_and_mirrored_rooms_sound_the_same(name, room):
    """To the 1e-3 that pyroomacoustics' table of fractional delays leaves."""
    found = SYMMETRIES[name](room)
    assert np.abs(found.positions - room.positions).max() > 0.5
    assert difference(found.rirs * found.scale, simulate(found)) < 1e-3


@pytest.mark.parametrize("factor", [1.05, 1.1, 1.3, 2.0])
def test_an_enlarged_room_sounds_longer_and_quieter(factor, room):
    """Absolute levels, in the band that both have."""
    found = scaled(room, factor)
    assert np.abs(found.rirs[room.splits["train"]]).max() == pytest.approx(1)
    measured, true = found.rirs * found.scale, simulate(found)
    highest = 0.8 * SAMPLE_RATE / 2 / factor
    assert difference(below(measured, highest), below(true, highest)) < 2e-3
    wrong_level = below(measured * factor, highest)
    assert difference(wrong_level, below(true, highest)) > 0.9 * (factor - 1)
    decay = [paper_metrics(rirs, SAMPLE_RATE)["edt_s"] for rirs in (below(measured, highest), below(true, highest))]
    np.testing.assert_allclose(*decay, rtol=0.02)


def test_a_room_is_enlarged_by_whole_percent_and_never_made_smaller(room):
    np.testing.assert_allclose(scaled(room, 1.204).surfaces.bounds()[1] - RECEIVER, 1.2 * (SIZE - RECEIVER))
    assert scaled(room, 1.001) is room
    for factor in (0.9, 2.1):
        with pytest.raises(InputError, match=f"cannot be enlarged by a factor of {factor}; give 1 to 2"):
            scaled(room, factor)


def test_what_air_absorbs_too_much(room):
    """The figure in the docstring, from pyroomacoustics' losses of energy a metre."""
    air = pra.parameters.Physics(temperature=20, humidity=40).get_air_absorption()
    factor, frequency = 1.1, np.log(4000)
    bands, losses = np.log(air["center_freqs"]), np.log(air["coeffs"])
    stretched, true = (np.exp(np.interp(frequency + shift, bands, losses)) for shift in (np.log(factor), 0))
    too_much = 10 * np.log10(np.e) * 343 * (stretched / factor - true)
    assert too_much == pytest.approx(0.7, abs=0.05)
    assert "4 kHz and 10 % about 0.7 dB a second" in scaled.__doc__


def test_what_is_seen_turns_along(room):
    """Against the panorama's own pixels, moved and with their coordinates mapped."""
    columns = 128
    turned = np.einsum("ij,jhw->ihw", [[0, -1, 0], [1, 0, 0], [0, 0, 1]], room.panorama)
    np.testing.assert_allclose(rotated(room, 90).panorama, np.roll(turned, columns, axis=-1), atol=1e-5)
    one = np.radians(360 / 512)
    turn = [[np.cos(one), -np.sin(one), 0], [np.sin(one), np.cos(one), 0], [0, 0, 1]]
    by_a_column = np.roll(np.einsum("ij,jhw->ihw", turn, room.panorama), 1, axis=-1)
    np.testing.assert_allclose(rotated(room, 360 / 512).panorama, by_a_column, atol=1e-5)
    across_y = room.panorama[..., ::-1] * np.array([1, -1, 1])[:, None, None]
    np.testing.assert_allclose(mirrored(room, "y").panorama, across_y, atol=1e-5)
    across_x = np.roll(across_y * np.array([-1, -1, 1])[:, None, None], 256, axis=-1)
    np.testing.assert_allclose(mirrored(room, "x").panorama, across_x, atol=1e-5)
    np.testing.assert_allclose(scaled(room, 1.2).panorama, 1.2 * room.panorama, atol=1e-5)


def test_another_viewpoint_shows_the_same_walls(room):
    """Every pixel holds a point on the box around the receiver, and lies in its direction from the viewpoint."""
    shift = np.array([0.6, -0.3, 0.2])
    found = seen_from(room, shift)
    points = np.moveaxis(found.view.astype(float), 0, -1)
    assert np.abs(points - np.moveaxis(room.panorama, 0, -1)).max() > 0.3
    onto_walls = np.minimum(np.abs(points + RECEIVER), np.abs(points + RECEIVER - SIZE)).min(axis=-1)
    assert onto_walls.max() < 1e-5
    ways = points - shift
    np.testing.assert_allclose(ways / np.linalg.norm(ways, axis=-1, keepdims=True), directions(), atol=1e-5)
    # all else is the room's, and its sound exactly that
    assert found.panorama is not room.panorama
    np.testing.assert_array_equal(found.panorama, room.panorama)
    for name in ("rirs", "positions", "receiver", "surfaces", "splits", "scale"):
        assert getattr(found, name) is getattr(room, name)
    assert found.fingerprint != room.fingerprint
    turned = rotated(found, 90)
    np.testing.assert_allclose(turned.viewpoint - RECEIVER, [0.3, 0.6, 0.2], atol=1e-12)


def test_a_viewpoint_stays_clear_of_what_is_in_the_way(room):
    found = seen_from(room, np.array([0.0, -5.0, 0.0]))
    np.testing.assert_allclose(found.viewpoint, [RECEIVER[0], CLEARANCE, RECEIVER[2]])
    beside_a_wall = dataclasses.replace(room, receiver=np.array([2.0, 0.1, 1.0]))
    np.testing.assert_array_equal(seen_from(beside_a_wall, np.array([0, -1.0, 0])).viewpoint, [2.0, 0.1, 1.0])
    assert seen_from(room, np.zeros(3)) is room


def test_the_origin_of_room_coordinates_does_not_matter(room):
    shift = np.array([3.0, -20.0, 7.0])
    moved = dataclasses.replace(
        room,
        positions=room.positions + shift,
        receiver=room.receiver + shift,
        geometry=Surfaces(room.surfaces.points + shift, room.surfaces.is_triangle),
    )
    np.testing.assert_allclose(moved.panorama, room.panorama, atol=1e-5)
    assert difference(room.rirs * room.scale, simulate(moved)) < 1e-3
    # receiver and positions moved through the room are another matter
    step = np.array([0.1, 0.1, 0])
    through = dataclasses.replace(room, positions=room.positions + step, receiver=RECEIVER + step)
    assert difference(room.rirs * room.scale, simulate(through)) > 0.3


def test_moved_through_a_room_sound_decays_much_the_same():
    """Of receiver and positions moved together the RIRs are kept as an error, not as a transform: this is how large."""
    rng = np.random.default_rng(1)
    positions = rng.uniform(1.0, SIZE - 1.0, (6, 3))

    def metrics(shift):
        box = pra.ShoeBox(SIZE, fs=SAMPLE_RATE, materials=pra.Material(0.35), max_order=22, air_absorption=False)
        box.add_microphone(RECEIVER + shift)
        for position in positions:
            box.add_source(position + shift)
        box.compute_rir()
        return paper_metrics(cut(box.rir[0]), SAMPLE_RATE)

    before, after = metrics(np.zeros(3)), metrics(np.array([0.4, -0.3, 0.0]))
    changes = np.abs(after["c50_db"] - before["c50_db"]), np.abs(after["edt_s"] / before["edt_s"] - 1)
    assert 0.05 < changes[0].mean() < 1.0  # dB, just noticeable
    assert 0.005 < changes[1].mean() < 0.1


def test_a_stretched_room_stays_closed(room):
    low, high = np.array([-0.2, 0.1, 0.0]), SIZE + np.array([0.3, 0.0, -0.1])
    found = stretched_between(room.surfaces, low, high)
    np.testing.assert_allclose(found.bounds(), [low, high])
    np.testing.assert_allclose(
        render_depth(found, RECEIVER, directions(32, 64)),
        render_depth(Surfaces.shoebox(high - low), RECEIVER - low, directions(32, 64)),
    )
