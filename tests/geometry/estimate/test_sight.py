import numpy as np
import pytest

from haa_peft.geometry.estimate.delays import lateness, on_time, straight
from haa_peft.geometry.estimate.sight import agreeing_turns, behind, contradicting, contradicts, sight_notes, turned
from haa_peft.geometry.panorama import depth_around, directions, pixels_of
from haa_peft.geometry.sources import Known
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.load import load_room
from tests.conftest import decaying_noise
from tests.geometry.conftest import RECEIVER, SIZE, heard_at

MIRRORED = Surfaces.shoebox(SIZE), np.array([2.0, 4 - 1.1, 1.2])


def test_pixels_are_the_inverse_of_directions():
    row, column = pixels_of(directions(), 256, 512)
    np.testing.assert_allclose(row, np.arange(256)[:, None] + np.zeros(512), atol=1e-9)
    np.testing.assert_allclose(column, np.arange(512) + np.zeros((256, 1)), atol=1e-9)


def test_places_behind_a_wall(true_depth):
    places = np.array([[5.0, 1.1, 1.2], [7.0, 1.1, 1.2], [2.0, 1.1, -0.8], [6.5, 1.1, 1.2]]) - RECEIVER
    np.testing.assert_allclose(behind(true_depth, places), [-1, 1, 0.8, 0.5], atol=0.02)


def test_the_true_map_contradicts_nothing(true_depth, known):
    assert len(contradicting(true_depth, known)) == 0
    assert not contradicts(true_depth, known)


def test_a_mirrored_map_is_found_out(known):
    # seen from the mirrored receiver of a mirrored box: the map with the other sign of azimuth
    wrong = depth_around(*MIRRORED)
    np.testing.assert_allclose(turned(wrong, 0, True), depth_around(Surfaces.shoebox(SIZE), RECEIVER), rtol=1e-6)
    assert contradicts(wrong, known)
    assert agreeing_turns(wrong, known)[0] == (0, True)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_another_zero_of_azimuth_is_found_out(true_depth, known, degrees):
    wrong = turned(true_depth, degrees, False)
    assert contradicts(wrong, known)
    (back, mirrored), *others = agreeing_turns(wrong, known)
    assert (back + degrees) % 360 == 0
    assert not mirrored
    assert not others


def test_a_symmetrical_place_does_not_tell_the_sign():
    middle = SIZE / 2
    known = heard_at(np.random.default_rng(3).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (20, 3)), receiver=middle)
    depth = depth_around(Surfaces.shoebox(SIZE), middle)
    assert "rests on what was stated" in sight_notes(depth, known)[1]
    assert "is borne out" in sight_notes(*at_receiver())[1]


def at_receiver():
    places = np.random.default_rng(3).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (20, 3))
    return depth_around(Surfaces.shoebox(SIZE), RECEIVER), heard_at(places)


def test_sound_comes_round_a_screen_as_late_as_the_way_is_long():
    # 2 m wide from floor to ceiling, halfway to the place: round its edge is 2 sqrt(1.5^2 + 1^2) = 3.61 m
    screen = {"points": [[3.5, 0.1, 0], [3.5, 2.1, 0], [3.5, 0.1, 2.7]]}
    depth = depth_around(Surfaces.from_json([*Surfaces.shoebox(SIZE).to_json(), screen], "x"), RECEIVER)
    place = [[5.0, 1.1, 1.2]]
    for late, is_early in ((0.0, True), (0.28, True), (0.34, False), (1.0, False)):  # 0.3 m are forgiven
        assert len(contradicting(depth, heard_at(place, late=late))) == is_early, late
    # no way leads through a wall, however late
    beyond = heard_at([[2.0, 5.0, 1.2]], late=5.0)
    assert contradicting(depth, beyond).tolist() == [0]


@pytest.mark.parametrize(
    ("folder", "mirror_is_found_out"),
    [
        ("haa-reconstruction/classroomBase", True),
        ("haa-reconstruction/dampenedTranslation", True),
        ("haa-reconstruction/dampenedPanel", False),
        ("haa-reconstruction/hallwayPanel3", False),
        ("r3vival/RB", False),
    ],
)
def test_no_true_map_is_contradicted(shared_data, folder, mirror_is_found_out):
    # panels hide up to four positions of five, and sound comes round them; where the receiver stands in the middle, or
    # positions near it, the mirror image agrees as well
    room = load_room(shared_data / folder)
    depth = np.linalg.norm(room.panorama, axis=0)
    known = Known.of(room.receiver, room.positions, room.rirs, room.splits["train"])
    assert not contradicts(depth, known)
    assert contradicts(depth[:, ::-1], known) == mirror_is_found_out


def test_direct_sound_is_read_from_measurements():
    positions = np.random.default_rng(1).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (6, 3))
    distance = np.linalg.norm(positions - RECEIVER, axis=1)
    rirs = decaying_noise(6, 9600, 22_050, 0.3, distance)
    known = Known.of(RECEIVER, positions, rirs, np.array([1, 3, 4]))
    assert straight(known).tolist() == [1, 3, 4]  # the others are not looked at
    assert np.abs(lateness(known)).max() < 343 / 22_050
    delayed = Known.of(RECEIVER, positions, np.roll(rirs, 100, axis=1), np.array([1, 3, 4]))
    assert len(straight(delayed)) == 0
    hurried = Known.of(RECEIVER, positions, np.roll(rirs, -150, axis=1), np.array([1, 3, 4]))
    assert len(on_time(hurried)) < 3
