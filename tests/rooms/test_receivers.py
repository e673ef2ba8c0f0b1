"""Several receivers in a room folder: one room, seen at each."""

import json

import numpy as np
import pytest

from haa_peft import load_room
from haa_peft.errors import InputError
from haa_peft.rooms.receivers import splits_of_pairs
from haa_peft.rooms.splits import default_splits
from tests.conftest import TWO_RECEIVERS, change_room


def test_a_view_at_each_receiver(pairs_folder, tmp_path):
    room = load_room(pairs_folder)
    assert len(room.at_receivers) == 2
    of = np.array(json.loads((pairs_folder / "room.json").read_text())["receiver_of"])
    rirs, places = np.load(pairs_folder / "RIRs.npy"), np.load(pairs_folder / "xyzs.npy")
    for i, single in enumerate(room.at_receivers):
        np.testing.assert_array_equal(single.receiver, TWO_RECEIVERS[i])
        np.testing.assert_array_equal(single.positions, places[of == i])
        assert single.name == "studio/base"
        assert not single.others
        # as a folder of its own, but for the scale, which all receivers share
        alone = tmp_path / f"alone-{i}" / "base"
        alone.mkdir(parents=True)
        np.save(alone / "RIRs.npy", rirs[of == i])
        np.save(alone / "xyzs.npy", places[of == i])
        about = {"sample_rate": 48_000, "receiver_xyz": TWO_RECEIVERS[i].tolist(), "room_size": [6.0, 4.0, 2.7],
                 "splits": {name: indices.tolist() for name, indices in single.splits.items()}}  # fmt: skip
        (alone / "room.json").write_text(json.dumps(about))
        single = load_room(alone)
        np.testing.assert_allclose(single.rirs * single.scale, single.rirs * single.scale, rtol=1e-5)
        np.testing.assert_array_equal(single.panorama, single.panorama)
        stored, rate = single.recorded()
        assert rate == 48_000
        np.testing.assert_array_equal(stored, rirs[of == i])
        chosen = load_room(pairs_folder, receiver=i)
        np.testing.assert_allclose(chosen.rirs, single.rirs, rtol=1e-5)
        assert chosen.scale == pytest.approx(single.scale)
    train = np.concatenate([single.rirs[single.splits["train"]] for single in room.at_receivers])
    assert np.abs(train).max() == 1
    assert room.scale == room.others[0].scale


def test_what_tests_is_unseen_by_all_receivers(pairs_folder):
    room = load_room(pairs_folder)
    every = {name: [{tuple(place) for place in single.positions[single.splits[name]]} for single in room.at_receivers]
             for name in ("train", "valid", "test")}  # fmt: skip
    for one, other in every.values():
        assert one == other
    assert [len(one) for one, _ in every.values()] == [12, 4, 4]
    assert room.count("test") == 8
    assert not every["train"][0] & every["test"][0]


def test_one_receiver_is_split_as_ever():
    positions = np.random.default_rng(0).uniform(0, 5, (30, 3))
    found, expected = splits_of_pairs(positions, np.zeros(30, dtype=int)), default_splits(positions)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_stated_splits_are_rows_of_the_folder(pairs_folder):
    of = np.array(json.loads((pairs_folder / "room.json").read_text())["receiver_of"])
    rows = [np.flatnonzero(of == i) for i in range(2)]
    change_room(pairs_folder, splits={"train": [int(i) for one in rows for i in one[:5]], "valid": [],
                                 "test": [int(i) for i in rows[1][5:]]})  # fmt: skip
    room = load_room(pairs_folder)
    assert [single.splits["train"].tolist() for single in room.at_receivers] == 2 * [list(range(5))]
    assert [single.count("test") for single in room.at_receivers] == [0, 15]
    change_room(pairs_folder, splits={"train": rows[0][:5].tolist(), "valid": [], "test": []})
    with pytest.raises(InputError, match="receiver 1 has 0 training positions but needs at least 2"):
        load_room(pairs_folder)


def test_shots_are_of_each_receiver(pairs_folder):
    room = load_room(pairs_folder).with_shots(5)
    assert [len(single.splits["train"]) for single in room.at_receivers] == [5, 5]
    assert max(np.abs(single.rirs[single.splits["train"]]).max() for single in room.at_receivers) == 1
    assert room.with_shots(3).fingerprint != room.fingerprint
    assert room.fingerprint != load_room(pairs_folder, receiver=0).with_shots(5).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"receiver_xyz": [1, 1, 1]}, "has receiver_xyz and receivers"),
        ({"receivers": []}, "receivers is [] but must be a list of points"),
        ({"receivers": [[2, 1.5, 1.2], [1, 1]]}, "receiver 1"),
        ({"receivers": [[2, 1.5, 1.2], [2, 1.5, 1.2]]}, "receivers [0, 1] are the same point"),
        ({"receivers": [[2, 1.5, 1.2], [4, 2.5, 9]]}, "[4.0, 2.5, 9.0] lies outside the room"),
        ({"receivers": [[2, 1.5, 1.2], [4, 2.5, 1.6], [5, 2.5, 1.6]]}, "receiver 2 has 0 RIRs but needs at least 2"),
        ({"receiver_of": None}, "receiver_of is None but must be a list of 40 whole numbers from 0 to 1"),
        ({"receiver_of": [0] * 39}, "must be a list of 40 whole numbers"),
        ({"receiver_of": [2] * 40}, "must be a list of 40 whole numbers"),
        ({"receiver_of": [True] * 40}, "must be a list of 40 whole numbers"),
    ],
)
def test_wrong_receivers_are_one_line(changes, message, pairs_folder):
    change_room(pairs_folder, **changes)
    with pytest.raises(InputError) as error:
        load_room(pairs_folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_receivers_that_are_there(pairs_folder, room_folder):
    with pytest.raises(InputError, match="receiver is 2 but studio/base has 2; give 0 to 1"):
        load_room(pairs_folder, receiver=2)
    with pytest.raises(InputError, match="drawing takes one receiver, and studio/base has 2; give one with --receiver"):
        load_room(pairs_folder).alone("drawing")
    room = load_room(pairs_folder)
    with pytest.raises(InputError, match="a change of splits takes one receiver"):
        room.with_splits(room.splits)


def test_a_depth_map_is_of_one_receiver(pairs_folder):
    np.save(pairs_folder / "depth.npy", np.full((32, 64), 9.0))
    change_room(pairs_folder, room_size=None, geometry={"depth": "depth.npy"})
    with pytest.raises(InputError, match="a depth map shows what one receiver sees, and there are 2"):
        load_room(pairs_folder)
    change_room(pairs_folder, geometry="none")
    assert len(load_room(pairs_folder).at_receivers) == 2
