import json
import os
import shutil

import numpy as np
import pytest

from haa_peft import load_room
from haa_peft.errors import InputError
from haa_peft.rooms.haa import haa_facts, haa_splits
from haa_peft.rooms.splits import farthest_points
from haa_peft.training.folds import folds_of

# the floor and a wall alone
CORNER = [
    {"points": [[0, 0, 0], [6, 0, 0], [0, 4, 0]]},
    {"points": [[6, 4, 2.7], [6, 3.9, 2.7], [6, 4, 2.6]]},
]


def edit(folder, **fields):
    description = json.loads((folder / "room.json").read_text())
    for field, value in fields.items():
        if value is None:
            del description[field]
        else:
            description[field] = value
    (folder / "room.json").write_text(json.dumps(description))


def change(folder, file, function):
    array = np.load(folder / file)
    np.save(folder / file, function(array))


def with_value(index, value):
    def function(array):
        array[index] = value
        return array

    return function


def test_a_plain_room(room_folder):
    room = load_room(room_folder)
    assert (room.name, room.rirs.shape, room.rirs.dtype) == ("studio/base", (20, 9600), np.float32)
    assert np.abs(room.rirs[room.splits["train"]]).max() == pytest.approx(1)
    assert [len(room.splits[split]) for split in ("train", "valid", "test")] == [12, 4, 4]
    rest = np.sort(np.concatenate([room.splits["valid"], room.splits["test"]]))
    np.testing.assert_array_equal(room.splits["valid"], rest[0::2])
    # resampling keeps the direct sound at d / 343 s
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    assert np.abs(np.abs(room.rirs).argmax(axis=1) - distance / 343 * 22_050).max() < 2


def test_measured_scale_is_kept(room_folder):
    one = load_room(room_folder)
    change(room_folder, "RIRs.npy", lambda rirs: 3 * rirs)
    three = load_room(room_folder)
    assert three.scale == pytest.approx(3 * one.scale, rel=1e-5)
    np.testing.assert_allclose(three.rirs, one.rirs, atol=1e-6)


def test_farthest_points():
    line = np.array([[x, 0.0, 0.0] for x in (0, 1, 2, 3, 4)])
    assert farthest_points(line, 4).tolist() == [2, 0, 4, 1]  # ties to the lower index
    assert sorted(farthest_points(line, 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("geometry", ["none", "sound"])
def test_geometry_follows_the_measurements_that_may_be_looked_at(room_folder, geometry):
    room = load_room(room_folder, geometry)
    few = room.with_shots(4)
    spoilt = np.load(room_folder / "RIRs.npy")
    others = np.setdiff1d(np.arange(len(spoilt)), few.splits["train"])
    spoilt[others] = np.roll(spoilt[others], 333, axis=1)
    np.save(room_folder / "RIRs.npy", spoilt)
    again = load_room(room_folder, geometry).with_shots(4)
    np.testing.assert_allclose(again.panorama, few.panorama, atol=1e-5)  # levels are rounded otherwise
    assert not np.allclose(few.panorama, room.panorama, atol=1e-2)
    panoramas = [fold.panorama for (fold,) in folds_of([few])]
    assert not all(np.allclose(one, few.panorama, atol=1e-5) for one in panoramas)


def test_fewer_shots_are_scaled_by_themselves(room_folder):
    room = load_room(room_folder)
    few = room.with_shots(3)
    assert set(few.splits["train"]) < set(room.splits["train"])
    assert np.abs(few.rirs[few.splits["train"]]).max() == pytest.approx(1)
    np.testing.assert_allclose(few.rirs * few.scale, room.rirs * room.scale, rtol=1e-5)
    with pytest.raises(InputError, match="--shots is 13 but studio/base has 12"):
        room.with_shots(13)


def test_splits_of_the_haa_authors():
    assert len(haa_facts()) == 14
    bases = [name for name in haa_facts() if name.endswith("Base")]
    # 1282 test positions in the four base rooms: published
    assert sum(len(haa_splits(name)["test"]) for name in bases) == 1282
    for name, facts in haa_facts().items():
        splits = haa_splits(name)
        assert len(splits["train"]) == 12
        assert len(splits["test"]) == facts["n_test"]
        assert sorted(np.concatenate(list(splits.values()))) == list(range(facts["n"]))


def test_haa_folder_needs_no_room_json(tmp_path):
    facts = haa_facts()["hallwayPanel1"]
    folder = tmp_path / "hallwayPanel1"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "RIRs.npy", rng.standard_normal((facts["n"], 24_000)).astype(np.float16))
    np.save(folder / "xyzs.npy", rng.uniform(0.1, 1.4, (facts["n"], 3)))
    room = load_room(folder)
    assert room.name == "hallway/panel1"
    assert room.receiver.tolist() == facts["speaker_xyz"]
    np.testing.assert_array_equal(room.splits["train"], facts["train_indices"])
    change(folder, "RIRs.npy", lambda rirs: rirs[:-1])
    change(folder, "xyzs.npy", lambda xyzs: xyzs[:-1])
    with pytest.raises(InputError, match="holds 71 RIRs but HAA's hallwayPanel1 has 72"):
        load_room(folder)


@pytest.mark.parametrize("name", ["classroomBase", "hallwayPanel1", "dampenedRotation"])
def test_reconstructions_load(shared_data, name):
    room = load_room(shared_data / "haa-reconstruction" / name)
    assert np.isfinite(room.rirs).all()
    assert np.abs(room.rirs[room.splits["train"]]).max() == pytest.approx(1)


def test_missing(room_folder, tmp_path):
    with pytest.raises(InputError, match="no such room folder"):
        load_room(tmp_path / "nowhere")
    (room_folder / "xyzs.npy").unlink()
    with pytest.raises(InputError, match=r"xyzs.npy: no such file"):
        load_room(room_folder)
    shutil.rmtree(room_folder)
    room_folder.mkdir()
    with pytest.raises(InputError, match="holds no room.json and its name is none of HAA's"):
        load_room(room_folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: change(f, "xyzs.npy", lambda x: x[:-1]), "20 RIRs but xyzs.npy 19 positions"),
        (lambda f: change(f, "RIRs.npy", with_value((3, 100), np.nan)), "RIR 3 holds NaN"),
        (lambda f: change(f, "RIRs.npy", with_value(4, 0)), "RIR 4 is silent"),
        (lambda f: change(f, "RIRs.npy", lambda x: x[0]), r"must be \(N, T\) and \(N, 3\)"),
        (lambda f: change(f, "RIRs.npy", lambda x: x.astype(complex)), "must hold real numbers"),
        (lambda f: change(f, "xyzs.npy", with_value((2, 0), np.inf)), "position 2 holds NaN"),
        (lambda f: change(f, "xyzs.npy", with_value(5, [2.0, 1.5, 1.2])), "position 5 lies at the receiver"),
        (lambda f: change(f, "xyzs.npy", lambda x: np.r_[x[:-1], x[:1]]), "positions 0 and 19 are the same point"),
        (lambda f: (f / "RIRs.npy").write_bytes(b"not an array"), "cannot be read as a .npy array"),
        (lambda f: (f / "room.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "room.json").write_text("[]"), "must hold an object"),
        (lambda f: edit(f, sample_rate=None), "sample_rate is None but must be"),
        (lambda f: edit(f, sample_rate="48k"), "sample_rate is '48k' but must be"),
        (lambda f: edit(f, receiver_xyz=[9, 1, 1]), "the receiver .* lies outside the room"),
        (lambda f: change(f, "xyzs.npy", lambda x: 1000 * x), "position 0, .* lies outside the room"),
        (lambda f: edit(f, room_size=None, surfaces=CORNER), "no surface is seen in 7.% of the directions"),
        (lambda f: edit(f, sample_rate=44_099), "no simple ratio"),
        (lambda f: change(f, "RIRs.npy", lambda x: x[:, :0]), r"RIRs.npy is \(20, 0\)"),
        (lambda f: (f / "RIRs.npy").write_bytes(b""), "cannot be read as a .npy array"),
        (lambda f: edit(f, splits={"train": [0.5], "valid": [], "test": []}), "splits train is .* whole numbers"),
        (lambda f: edit(f, receiver_xyz=[1, 1]), "receiver_xyz is .* three finite numbers"),
        (lambda f: edit(f, room_size=None), "needs either room_size"),
        (lambda f: edit(f, room_size=[1, 0, 2]), "three positive metres"),
        (lambda f: edit(f, geometry="none"), "not room_size and geometry"),
        (lambda f: edit(f, room_size=None, geometry="scan.ply"), "geometry mesh is 'scan.ply' but must be a file"),
        (lambda f: edit(f, room_size=None, geometry={"sun": "x"}), "geometry is {'sun': 'x'} but must be 'none'"),
        (lambda f: edit(f, configuration="../base"), "must be letters, digits"),
        (lambda f: edit(f, splits={"train": [0]}), "splits must hold train, valid, test"),
        (lambda f: edit(f, splits={"train": [0], "valid": [0], "test": []}), "disjoint indices"),
        (lambda f: edit(f, splits={"train": [99], "valid": [], "test": []}), "from 0 to 19"),
    ],
)
def test_bad_rooms(room_folder, spoil, message):
    spoil(room_folder)
    with pytest.raises(InputError, match=message) as raised:
        load_room(room_folder)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(room_folder):
    (room_folder / "RIRs.npy").unlink()
    os.mkfifo(room_folder / "RIRs.npy")
    with pytest.raises(InputError, match=r"RIRs.npy: is no plain file"):
        load_room(room_folder)


def test_no_pickle_is_read(room_folder):
    np.save(room_folder / "RIRs.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as a .npy array"):
        load_room(room_folder)


def seen_depth(folder):
    return np.linalg.norm(load_room(folder).panorama, axis=0)


def test_geometry_of_other_sources(room_folder):
    planes = load_room(room_folder)
    depth = seen_depth(room_folder)
    np.save(room_folder / "depth.npy", depth)
    edit(room_folder, room_size=None, geometry="depth.npy")
    room = load_room(room_folder)
    np.testing.assert_allclose(room.panorama, planes.panorama, atol=1e-5)
    assert room.surfaces is None
    assert room.fingerprint != planes.fingerprint
    assert room.fingerprint == load_room(room_folder).fingerprint
    edit(room_folder, geometry={"room_size": [6.0, 4.0, 2.7]})
    assert load_room(room_folder).fingerprint == planes.fingerprint
    edit(room_folder, geometry="none")
    assert load_room(room_folder).geometry.trust == "assumed"


def test_geometry_that_overrides(room_folder, tmp_path):
    planes = load_room(room_folder)
    assert load_room(room_folder, "none").geometry.trust == "assumed"
    (tmp_path / "bigger.json").write_text(json.dumps({"room_size": [7, 4, 2.7]}))
    bigger = load_room(room_folder, str(tmp_path / "bigger.json"))
    assert bigger.geometry.bounds()[1].tolist() == [7, 4, 2.7]
    np.testing.assert_array_equal(bigger.rirs, planes.rirs)
    assert bigger.fingerprint != planes.fingerprint


def test_fingerprints_of_plane_rooms_stay(shared_data):
    # of the version that first published adapters and studies: what they keep is compared with these
    for folder, fingerprint in (
        ("r3vival/000", "2f6ee5da6314c463618ac9cba0f6ecd1d5bf70fd0341d843c4bbd67aa9fa4610"),
        ("haa-reconstruction/hallwayPanel1", "5138febd85e5ccfc1c2245a6db8a073784870567473c3343805ca3f284db9e5c"),
    ):
        assert load_room(shared_data / folder).fingerprint == fingerprint
