"""One adapter at several receivers: trained together, stored together, asked for pairs."""

import dataclasses

import numpy as np
import pytest

from haa_peft import RoomPredictor, load_room
from haa_peft.adapters.methods import MethodSettings
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.exporting.responses import predict_responses
from haa_peft.main_job import adapt_room
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.pack_files import to_files
from haa_peft.store.parts import VIEWS
from haa_peft.training.settings import TrainingSettings
from tests.conftest import TWO_RECEIVERS
from tests.store.test_store import make_pack

QUERIES = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.5], [3.0, 3.3, 0.7]])
NAME = AdapterName("studio", "base")


@pytest.fixture
def adapted(pairs_folder, tiny_backbone, tmp_path):
    room = load_room(pairs_folder)
    found = adapt_room(room, MethodSettings("lora"), TrainingSettings(max_steps=3), backbone=tiny_backbone, k=4)
    found.write(tmp_path / "store")
    return found


def test_one_adapter_is_trained_on_all_pairs(adapted, tiny_backbone, tmp_path):
    assert adapted.report["positions"] == 8
    assert adapted.report["receivers"] == [4, 4]
    assert adapted.report["shots"] == 24
    assert adapted.card["room"]["receivers"] == TWO_RECEIVERS.tolist()
    assert "predict(positions_xyz, receiver=0)" in (NAME.folder(tmp_path / "store") / "README.md").read_text()
    row = adapted.report["rows"][0]["per_position"]["edt_s"]
    assert len(row) == 8
    pack = read_pack(tmp_path / "store", NAME)
    assert len(pack.at_receivers) == 2
    for single, own in zip(pack.at_receivers, adapted.room.at_receivers, strict=True):
        np.testing.assert_array_equal(single.rirs, own.rirs[own.splits["train"]])
        np.testing.assert_array_equal(single.positions, own.positions[own.splits["train"]])
        np.testing.assert_array_equal(single.receiver, own.receiver)
        assert single.levels is not None


def test_pairs_are_what_single_receivers_give(pairs_folder, tiny_backbone, tmp_path):
    """A pack of a single receiver with the same weights is another implementation of each of the pairs."""
    room = load_room(pairs_folder)
    write_pack(tmp_path / "store", make_pack(room, tiny_backbone, NAME))
    predictor = RoomPredictor.load("studio/base", store=tmp_path / "store", backbone=tiny_backbone)
    np.testing.assert_array_equal(predictor.receivers, TWO_RECEIVERS)
    assert predictor.references.shape == (24, 3)
    for i, single in enumerate(room.at_receivers):
        other = AdapterName("studio", f"only{i}")
        write_pack(tmp_path / "store", make_pack(single, tiny_backbone, other))
        alone = RoomPredictor.load(str(other), store=tmp_path / "store", backbone=tiny_backbone).predict(QUERIES)
        for receiver in (i, TWO_RECEIVERS[i], TWO_RECEIVERS[i].tolist()):
            found = predictor.predict(QUERIES, receiver=receiver)
            np.testing.assert_allclose(found, alone, atol=1e-3 * np.abs(alone).max())
    both = predictor.predict_many([("studio/base", QUERIES, 1), ("studio/only0", QUERIES), ("studio/base", QUERIES, 0)])
    expected = predictor.predict(QUERIES, receiver=0)
    for found in both[1:]:
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert np.abs(both[0] - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("receiver", "message"),
    [
        (None, "studio/base has 2 receivers; say which one is meant: 0 at [2.0, 1.5, 1.2], 1 at [4.0, 2.5, 1.6]"),
        (2, "receiver is 2 but studio/base has 0 at [2.0, 1.5, 1.2]"),
        (-1, "give 0 to 1"),
        ([1, 1], "must be a number from 0 to 1, or [x, y, z] in m"),
        ([1, 1, np.nan], "must be a number from 0 to 1"),
        ([1, 1, 1], "receiver [1.0, 1.0, 1.0] was not measured in studio/base, which has 0 at"),
    ],
)
def test_receivers_that_were_not_measured_are_refused(receiver, message, pairs_folder, tiny_backbone, tmp_path):
    write_pack(tmp_path / "store", make_pack(load_room(pairs_folder), tiny_backbone, NAME))
    predictor = RoomPredictor.load("studio/base", store=tmp_path / "store", backbone=tiny_backbone)
    with pytest.raises(InputError) as error:
        predictor.predict(QUERIES, receiver=receiver)
    assert message in str(error.value)


def test_single_packs_are_written_as_before(room_folder, tiny_backbone):
    files = to_files(make_pack(load_room(room_folder), tiny_backbone, NAME))
    assert VIEWS not in files
    assert b"receivers" not in files["card.json"]


def test_a_damaged_file_of_views_is_one_line(pairs_folder, tiny_backbone, tmp_path):
    write_pack(tmp_path / "store", make_pack(load_room(pairs_folder), tiny_backbone, NAME))
    path = NAME.folder(tmp_path / "store") / VIEWS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=VIEWS):
        read_pack(tmp_path / "store", NAME)


def test_none_of_the_geometry_is_kept_for_each(pairs_folder, tiny_backbone, tmp_path):
    room = load_room(pairs_folder, "none")
    write_pack(tmp_path / "store", make_pack(room, tiny_backbone, NAME))
    for single, own in zip(read_pack(tmp_path / "store", NAME).at_receivers, room.at_receivers, strict=True):
        np.testing.assert_array_equal(single.geometry.depth, own.geometry.depth)


def test_the_command_line(pairs_folder, adapted, tiny_backbone_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = ["--backbone", str(tiny_backbone_file), "--store", "store"]
    main(["adapt", str(pairs_folder), *weights, "--max-steps", "2", "--k", "4", "--name", "studio/two"])
    out = capsys.readouterr().out
    assert "24 measurements of 2 receivers train, 8 validate, 8 test" in out
    main(["evaluate", str(pairs_folder), "--adapter", "studio/two", *weights, "--k", "4"])
    assert "at 8 test positions, 24 measurements" in capsys.readouterr().out
    main(["evaluate", str(pairs_folder), "--receiver", "1", "--adapter", "studio/two", *weights, "--k", "4"])
    assert "at 4 test positions, 12 measurements" in capsys.readouterr().out
    main(["predict", "studio/two", "--position", "1", "1", "1", "--out", "pairs.npz", *weights])
    pairs = np.load("pairs.npz")
    assert pairs["rirs"].shape == (2, 9600)
    np.testing.assert_array_equal(pairs["receiver"], TWO_RECEIVERS)
    main(["predict", "studio/two", "--position", "1", "1", "1", "--receiver", "1", "--out", "one.npz", *weights])
    np.testing.assert_allclose(np.load("one.npz")["rirs"][0], pairs["rirs"][1], atol=1e-5)
    main(["adapters", "verify", "studio/two", *weights])
    for command in (["geometry", str(pairs_folder)], ["adapters", "match", str(pairs_folder), *weights]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(command)
        assert "takes one receiver, and studio/base has 2; give one with --receiver 0 to 1" in capsys.readouterr().err


def test_full_length_at_each_receiver(adapted, pairs_folder, tiny_backbone, tmp_path):
    pack = read_pack(tmp_path / "store", NAME)
    recorded = np.load(pairs_folder / "RIRs.npy")
    for single, own in zip(pack.at_receivers, adapted.room.at_receivers, strict=True):
        assert single.recordings.sample_rate == 48_000
        rows = [np.flatnonzero((np.load(pairs_folder / "xyzs.npy") == place).all(axis=1)) for place in single.positions]
        loudest = np.abs(single.recordings.rirs.astype(float) * own.scale).max(axis=1)
        # two receivers at each position: one of the two recordings is this one's
        assert all(np.isclose(np.abs(recorded[row]).max(axis=1), peak, rtol=1e-3).any()
                   for row, peak in zip(rows, loudest, strict=True))  # fmt: skip
    predictor = RoomPredictor.load("studio/base", store=tmp_path / "store", backbone=tiny_backbone)
    asked = {"sample_rate": 48_000, "length": "full"}
    both = [predictor.predict(QUERIES, receiver=i, **asked) for i in range(2)]
    assert both[0].shape == both[1].shape == (3, round(predictor.full_length * 48_000))
    pairs = predict_responses(predictor, QUERIES, **asked)
    np.testing.assert_allclose(pairs.rirs, np.concatenate(both) * predictor.scale, rtol=1e-4, atol=1e-6)
    assert pairs.sample_rate == 48_000


def test_what_was_trained_on_is_not_tested(adapted, pairs_folder, tiny_backbone, tmp_path):
    from haa_peft.evaluation.compare import check_unseen

    pack = read_pack(tmp_path / "store", NAME)
    check_unseen(pack, adapted.room, "test")
    first, other = adapted.room.at_receivers
    turned = {"train": other.splits["test"], "valid": other.splits["valid"], "test": other.splits["train"]}
    room = dataclasses.replace(first, others=(dataclasses.replace(other, splits=turned),))
    with pytest.raises(InputError, match="was trained on 12 of the test positions"):
        check_unseen(pack, room, "test")
