import dataclasses

import numpy as np
import pytest

from haa_peft import load_room
from haa_peft.augmentation.settings import USUAL, Augmentation, vary
from haa_peft.errors import InputError
from haa_peft.rooms.room import NEAREST

PARTS = ("rirs", "positions", "receiver", "surfaces", "scale", "viewpoint")
CHANGED = {
    "rotation": {"positions", "surfaces"},
    "mirror": {"positions", "surfaces"},
    "translation": {"viewpoint"},
    "scale": {"rirs", "positions", "surfaces", "scale"},
    "positions": {"positions"},
    "receiver": {"receiver"},
    "surfaces": {"surfaces"},
    "registration": {"surfaces"},
}


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def content(room, part):
    value = getattr(room, part)
    return np.array(value.points if part == "surfaces" else np.nan if value is None else value)


def variants(room, count=600, **what):
    return [vary(room, Augmentation(**what), (0, 0, number)) for number in range(count)]


@pytest.mark.parametrize("name", USUAL)
def test_each_changes_what_it_says_and_nothing_else(name, room):
    found = variants(room, 6, **{name: USUAL[name]})
    for part in PARTS:
        same = [np.array_equal(content(one, part), content(room, part), equal_nan=True) for one in found]
        assert not all(same) if part in CHANGED[name] else all(same), part
    again = variants(room, 6, **{name: USUAL[name]})
    assert [one.fingerprint for one in again] == [one.fingerprint for one in found]
    assert len({one.fingerprint for one in found}) > (2 if name == "mirror" else 4)
    for one in found:
        assert one.splits["train"].tolist() == room.splits["train"].tolist()
        assert len(one.splits["valid"]) == len(one.splits["test"]) == 0


def test_what_else_is_on_changes_no_draw(room):
    """The positions' errors, seen in a room that was turned as well."""
    alone, both = (variants(room, 3, positions=0.1, **more) for more in ({}, {"rotation": 90.0, "translation": 0.3}))
    for one, other in zip(alone, both, strict=True):
        lengths = [np.linalg.norm(each.positions - each.receiver, axis=1) for each in (one, other)]
        np.testing.assert_allclose(*lengths)


def test_errors_have_their_standard_deviation(room):
    inside = dataclasses.replace(room, positions=0.5 * (room.positions + room.receiver))  # far from all walls
    found = variants(inside, positions=0.05)
    errors = np.stack([one.positions for one in found]) - inside.positions
    assert errors.mean() == pytest.approx(0, abs=0.003)
    np.testing.assert_allclose(errors.std(axis=(0, 1)), 0.05, rtol=0.05)
    errors = np.stack([one.receiver for one in variants(inside, receiver=0.05)]) - inside.receiver
    np.testing.assert_allclose(errors.std(axis=0), 0.05, rtol=0.1)
    bounds = np.stack(inside.surfaces.bounds())
    errors = np.stack([np.stack(one.surfaces.bounds()) for one in variants(inside, surfaces=0.05)]) - bounds
    np.testing.assert_allclose(errors.std(axis=0), 0.05, rtol=0.1)
    assert abs(np.corrcoef(errors[:, 0, 0], errors[:, 1, 0])[0, 1]) < 0.3  # opposite sides
    errors = np.stack([np.stack(one.surfaces.bounds()) for one in variants(inside, registration=0.05)]) - bounds
    np.testing.assert_allclose(errors.std(axis=0), 0.05, rtol=0.1)
    np.testing.assert_allclose(errors[:, 0], errors[:, 1], atol=1e-12)  # one shift of all


def test_nothing_leaves_the_room(room):
    low, high = room.surfaces.bounds()
    moved = 0
    for one in variants(room, 40, positions=0.8):
        assert ((one.positions > low) & (one.positions < high)).all()
        assert np.linalg.norm(one.positions - one.receiver, axis=1).min() > NEAREST
    for one in variants(room, 40, receiver=0.8):
        assert ((one.receiver > low) & (one.receiver < high)).all()
    for name in ("surfaces", "registration"):
        for one in variants(room, 40, **{name: 0.2}):
            low, high = one.surfaces.bounds()
            places = np.concatenate([room.positions, [room.receiver]])
            assert ((places > low) & (places < high)).all()
            moved += one.surfaces is not room.surfaces
    assert moved > 40
    # an error that is larger than the room is none
    stuck = variants(room, 3, surfaces=2.0, registration=2.0)
    assert all(np.isfinite(one.panorama).all() for one in stuck)


def test_angles_mirrors_and_sizes_that_are_drawn(room):
    start = room.positions[0] - room.receiver
    ways = [one.positions[0] - one.receiver for one in variants(room, rotation=90.0)]
    angles = {round(np.degrees(np.angle((w[0] + 1j * w[1]) / (start[0] + 1j * start[1])))) % 360 for w in ways}
    assert angles == {0, 90, 180, 270}
    signs = {tuple(np.sign(one.positions[0] - one.receiver) / np.sign(start)) for one in variants(room, mirror=True)}
    assert signs == {(x, y, 1) for x in (1, -1) for y in (1, -1)}
    sizes = {round(one.positions[0, 0] - one.receiver[0], 6) for one in variants(room, 60, scale=0.02)}
    assert sizes == {round(start[0] * s, 6) for s in (1, 1.01, 1.02)}
    shifts = [np.linalg.norm(one.viewpoint - one.receiver) for one in variants(room, translation=0.3)]
    assert 0.28 < max(shifts) <= 0.3
    assert np.mean(shifts) == pytest.approx(0.75 * 0.3, rel=0.03)  # of points spread evenly in a ball


def test_parsing_and_describing():
    assert Augmentation.parse([]) == Augmentation()
    assert Augmentation().to_json() == {}
    assert not Augmentation()
    found = Augmentation.parse(["mirror", "scale=0.2", "rotation"])
    assert found == Augmentation(mirror=True, scale=0.2, rotation=1.0)
    assert found.to_json() == {"rotation": 1.0, "mirror": True, "scale": 0.2}
    assert Augmentation.parse(USUAL).to_json() == USUAL


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["rotate"], "--augment rotate: give each of rotation, mirror"),
        (["mirror=1"], "--augment mirror=1: give each"),
        (["scale", "scale=0.2"], "--augment scale=0.2: give each of .* once"),
        (["scale=big"], "--augment scale=big: 'big' must be a number"),
        (["scale=-0.1"], "--augment scale=-0.1 must be from 0 to 1"),
        (["positions=nan"], "--augment positions=nan must be from 0 to 2"),
        (["rotation=50"], "--augment rotation=50 must divide 360 degrees"),
    ],
)
def test_bad_augmentation(texts, message):
    with pytest.raises(InputError, match=message):
        Augmentation.parse(texts)


def test_a_depth_map_is_not_moved(room_folder):
    room = load_room(room_folder, "none")
    Augmentation(positions=0.1).check(room)
    assert not np.array_equal(vary(room, Augmentation(positions=0.1), (0,)).positions, room.positions)
    with pytest.raises(InputError, match="studio/base has no planes but a depth panorama, which --augment does not"):
        Augmentation(positions=0.1, mirror=True).check(room)
