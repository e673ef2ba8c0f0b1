"""What is exported is read by other programs, and by import, as what it was."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import soundfile

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.commands.outputs import beside
from haa_peft.errors import InputError
from haa_peft.exporting import export
from haa_peft.exporting.places import along, grid
from haa_peft.exporting.responses import Responses, box_of, predict_responses
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

QUERIES = [[1.0, 1.0, 1.0], [4.0, 2.0, 1.5], [3.0, 3.3, 0.7]]


@pytest.fixture
def predict(room_folder, tiny_backbone, tiny_backbone_file, tmp_path, monkeypatch):
    """Run ``haa-peft predict`` on a stored adapter of the room; the file."""
    monkeypatch.setenv("HAA_PEFT_STORE", str(tmp_path / "store"))
    room = load_room(room_folder)
    write_pack(tmp_path / "store", make_pack(room, tiny_backbone, AdapterName("studio", "base")))

    def predict(out, *arguments):
        main(["predict", "studio/base", "--backbone", str(tiny_backbone_file), "--out", str(tmp_path / out),
              *map(str, arguments)])  # fmt: skip
        return tmp_path / out

    return predict


@pytest.fixture
def predictor(predict, tiny_backbone):
    return RoomPredictor.load("studio/base", backbone=tiny_backbone)


def three():
    return [word for place in QUERIES for word in ("--position", *place)]


@pytest.fixture
def responses():
    """Of a box, RIRs and positions at random."""
    rng = np.random.default_rng(0)
    rirs = rng.normal(size=(14, 500)).astype(np.float32)
    positions = rng.uniform(0.5, 2.5, (14, 3))
    receivers = np.tile([1.0, 3.0, 1.2], (14, 1))
    return Responses(rirs, 16_000, positions, receivers, "studio/base", np.array([[0, 0, 0], [4, 5, 3.0]]), "CC BY 4.0",
                     "predicted by nobody")  # fmt: skip


def read_sofa(path):
    sofar = pytest.importorskip("sofar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sofa = sofar.read_sofa(str(path), verify=True, verbose=False)
        assert sofa.verify(issue_handling="return", mode="read") is None
    return sofa


def imported(path, tmp_path, *arguments):
    """The room folder that import makes; predictions of an untrained network are faulty measurements."""
    out = tmp_path / "again" / path.name.replace(".", "-")
    main(["import", str(path), "--out", str(out), "--allow-faults", *arguments])
    return np.load(out / "RIRs.npy"), np.load(out / "xyzs.npy"), json.loads((out / "room.json").read_text())


@pytest.mark.parametrize("out", ["three.sofa", "three.npz", "three"])
def test_what_is_predicted_comes_back_by_import(out, predict, predictor, tmp_path):
    if out.endswith("sofa"):
        pytest.importorskip("sofar")
    rirs, positions, room = imported(predict(out, *three()), tmp_path)
    expected = predictor.predict(QUERIES) * predictor.scale
    np.testing.assert_array_equal(rirs, expected.astype(np.float32))
    np.testing.assert_array_equal(positions, QUERIES)
    assert room["receiver_xyz"] == predictor.receivers[0].tolist()
    assert room["sample_rate"] == 22_050
    if out.endswith("sofa"):
        assert room["room_size"] == [6.0, 4.0, 2.7]
        assert any("predicted by the adapter studio/base" in line for line in room["imported"])


@pytest.mark.parametrize("out", ["all.sofa", "all.npz", "all"])
def test_every_format_keeps_every_bit(out, responses, tmp_path):
    if out.endswith("sofa"):
        pytest.importorskip("sofar")
    export(responses, tmp_path / out)
    rirs, positions, _ = imported(tmp_path / out, tmp_path)
    np.testing.assert_array_equal(rirs, responses.rirs)
    np.testing.assert_array_equal(positions, responses.positions)


@pytest.mark.parametrize("out", ["pairs.sofa", "pairs.npz", "pairs"])
def test_pairs_come_back_as_receivers(out, responses, tmp_path):
    if out.endswith("sofa"):
        pytest.importorskip("sofar")
    other = np.tile([3.0, 1.0, 1.5], (14, 1))
    pairs = dataclasses.replace(
        responses, rirs=np.concatenate([responses.rirs, responses.rirs[::-1]]),
        positions=np.tile(responses.positions, (2, 1)), receivers=np.concatenate([responses.receivers, other]),
    )  # fmt: skip
    export(pairs, tmp_path / out)
    rirs, positions, room = imported(tmp_path / out, tmp_path, "--channel", "all")
    np.testing.assert_array_equal(rirs, pairs.rirs)
    np.testing.assert_array_equal(positions, pairs.positions)
    np.testing.assert_array_equal(room["receivers"], [[1, 3, 1.2], [3, 1, 1.5]])
    assert room["receiver_of"] == 14 * [0] + 14 * [1]


def test_sofa_says_what_it_is(responses, tmp_path):
    export(responses, tmp_path / "all.sofa")
    sofa = read_sofa(tmp_path / "all.sofa")
    assert (sofa.GLOBAL_SOFAConventions, sofa.GLOBAL_RoomType) == ("SingleRoomSRIR", "shoebox")
    assert (sofa.GLOBAL_License, sofa.GLOBAL_Comment) == ("CC BY 4.0", "predicted by nobody")
    np.testing.assert_array_equal(sofa.Data_IR[:, 0], responses.rirs)
    np.testing.assert_array_equal(sofa.SourcePosition, responses.positions)
    np.testing.assert_array_equal(sofa.ListenerPosition, responses.receivers)
    np.testing.assert_array_equal(sofa.RoomCornerB.ravel(), [4, 5, 3])


def test_pyfar_reads_it(responses, tmp_path):
    pyfar = pytest.importorskip("pyfar")
    export(responses, tmp_path / "all.sofa")
    signal, sources, _ = pyfar.io.read_sofa(str(tmp_path / "all.sofa"))
    np.testing.assert_array_equal(signal.time[:, 0], responses.rirs)
    assert signal.sampling_rate == 16_000
    np.testing.assert_allclose(sources.cartesian, responses.positions)


def test_an_imported_file_is_exported_as_it_was(responses, tmp_path):
    pytest.importorskip("sofar")
    export(responses, tmp_path / "first.sofa")
    rirs, positions, room = imported(tmp_path / "first.sofa", tmp_path)
    box = np.array([[0, 0, 0], room["room_size"]])
    receivers = np.tile(room["receiver_xyz"], (14, 1))
    again = Responses(rirs, room["sample_rate"], positions, receivers, "studio/base", box, room["licence"])
    export(again, tmp_path / "second.sofa")
    first, second = read_sofa(tmp_path / "first.sofa"), read_sofa(tmp_path / "second.sofa")
    for name in ("Data_IR", "Data_SamplingRate", "SourcePosition", "ListenerPosition", "RoomCornerA", "RoomCornerB",
                 "GLOBAL_License", "GLOBAL_RoomType"):  # fmt: skip
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_tables_grids_and_paths(predict, predictor, tmp_path):
    (tmp_path / "where.csv").write_text("x_mm,y_mm,z_mm\n" + "".join(f"{1000 * x},{1000 * y},{1000 * z}\n"
                                        for x, y, z in QUERIES))  # fmt: skip
    listed = np.load(predict("list.npz", "--positions", tmp_path / "where.csv"))
    np.testing.assert_allclose(listed["positions"], QUERIES)
    np.testing.assert_array_equal(listed["receiver"], predictor.receivers[0])
    walk = np.load(predict("walk.npz", *three(), "--step", 0.5))["positions"]
    np.testing.assert_allclose(walk, along(np.array(QUERIES), 0.5))
    layers = np.load(predict("grid.npz", "--grid", 2, "--height", 1, 2))["positions"]
    assert layers[:, :2].tolist() == 2 * [[1, 1], [3, 1], [5, 1], [1, 3], [3, 3], [5, 3]]
    assert layers[:, 2].tolist() == 6 * [1] + 6 * [2]
    rir, rate = soundfile.read(predict("one.wav", *three()[:4]), dtype="float32")
    assert rate == 22_050
    np.testing.assert_allclose(rir, listed["rirs"][0], atol=1e-3 * np.abs(rir).max())  # alone, not in a batch


def test_a_path_goes_straight_and_in_equal_steps():
    corners = np.array([[0, 0, 1], [3, 0, 1], [3, 4, 1.0]])
    found = along(corners, 0.7)
    np.testing.assert_allclose(found[0], corners[0])
    np.testing.assert_allclose(found[-1], corners[-1])
    so_far = np.where(found[:, 1] > 0, 3 + found[:, 1], found[:, 0])  # along two legs of 3 and 4 m
    np.testing.assert_allclose(so_far, [*np.arange(11) * 0.7, 7.0][: len(found)])
    np.testing.assert_allclose(along(corners, 20.0), corners[[0, 2]])
    with pytest.raises(InputError, match="path of at least 2 positions but there is 1"):
        along(corners[:1], 1)
    with pytest.raises(InputError, match="--step is 0 but must be from 0.001"):
        along(corners, 0)


def test_a_grid_keeps_out_of_what_is_not_the_room():
    """An L of 4 x 4 m without its quarter beyond (2, 2)."""
    corners = np.array([[0, 0], [4, 0], [4, 2], [2, 2], [2, 4], [0, 4.0]])
    walls = [[[*a, 0], [*b, 0], [*a, 3]] for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    floors = [[[0, 0, z], [4, 0, z], [0, 2, z]] for z in (0, 3)] + [[[0, 2, z], [2, 2, z], [0, 4, z]] for z in (0, 3)]
    surfaces = Surfaces(np.array([*walls, *floors], dtype=float), np.zeros(10, dtype=bool))
    found = grid(surfaces, np.array([[0.5, 0.5, 1.5]]), 1.0, [1.5, 9.0], np.empty((0, 3)))
    expected = {(x + 0.5, y + 0.5, 1.5) for x in range(4) for y in range(4) if x < 2 or y < 2} - {(0.5, 0.5, 1.5)}
    assert {tuple(row) for row in found.tolist()} == expected
    assert box_of(surfaces) is None


def test_a_box_is_known_as_one():
    box = Surfaces.shoebox([4, 5, 3])
    np.testing.assert_array_equal(box_of(box), [[0, 0, 0], [4, 5, 3]])
    order = np.random.default_rng(0).permutation(6)
    moved = Surfaces((box.points + np.array([1, -2, 3]))[order], box.is_triangle)
    np.testing.assert_array_equal(box_of(moved), [[1, -2, 3], [5, 3, 6]])
    points = box.points.copy()
    points[0] += [0.5, 0, 0]
    assert box_of(Surfaces(points, box.is_triangle)) is None
    assert box_of(Surfaces(box.points[[0, 0, 2, 3, 4, 5]], box.is_triangle)) is None
    assert box_of(Surfaces(box.points[:5], box.is_triangle[:5])) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.wav", *three()], "a WAV file holds one RIR, not 3; give a folder, .sofa or .npz"),
        (["x.mp3", *three()], "must end in .wav, .sofa or .npz, or be a folder"),
        (["x.npz"], "one of --position, --positions and --grid is needed, not none"),
        (["x.npz", *three(), "--grid", 1], "is needed, not position and grid"),
        (["x.npz", *three(), "--height", 1], "--height goes with --grid, not with --position"),
        (["x.npz", "--grid", 1, "--step", 1], "--step goes with --position and --positions, not with --grid"),
        (["x.npz", "--grid", 0.0001], "--grid is 0.0001 but must be from 0.001 to 1000 m"),
        (["x.npz", "--grid", 0.002], "but at most 100000 are predicted at once"),
        (["x.npz", "--grid", 1, "--height", 9], "no point of the grid lies in the room"),
        (["x.npz", "--positions", "gone.csv"], "gone.csv"),
        (["x.npz", *three()[:4], "--step", 1], "--step needs a path of at least 2 positions but there is 1"),
        (["store", *three()], "exists already"),
        (["x.npz", *three(), "--receiver", 3], "--receiver is 3 but studio/base has 1, counted from 0"),
        (["store/x/deep.npz", "--position", 99, 0, 0], "lies outside"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(arguments, message, predict, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        predict(*arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_more_than_fits_is_refused(predictor, monkeypatch):
    monkeypatch.setattr("haa_peft.exporting.responses.LARGEST", 2 * 9600 * 4)
    assert len(predict_responses(predictor, np.array(QUERIES[:2])).rirs) == 2
    with pytest.raises(InputError, match="3 positions are 0.0 GiB of RIRs but at most"):
        predict_responses(predictor, np.array(QUERIES))


def test_a_failed_write_leaves_what_was_there(responses, tmp_path, monkeypatch):
    out = tmp_path / "new" / "all"
    monkeypatch.setattr(soundfile, "write", lambda *a, **b: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="cannot be written .No space left"):
        export(responses, out)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").write_text("before")

    def half(path):
        with beside(path) as place:
            place.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half(tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]
