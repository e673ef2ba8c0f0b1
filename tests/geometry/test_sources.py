import json
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.sources import geometry_argument, nothing_known, read_geometry
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.simulation.draw import draw_room
from tests.geometry.conftest import SIZE, heard_at


@pytest.fixture
def folder(tmp_path, true_depth):
    np.save(tmp_path / "depth.npy", true_depth)
    mesh = trimesh.creation.box(SIZE)
    mesh.apply_translation(SIZE / 2)
    mesh.export(tmp_path / "scan.ply")
    return tmp_path


@pytest.mark.parametrize(
    "given",
    ["depth.npy", "scan.ply", {"depth": "depth.npy", "unit": "m"}, {"mesh": "scan.ply", "unit": "m", "up": "z"}],
)
def test_files(folder, known, true_depth, given):
    np.testing.assert_allclose(read_geometry(given, folder, known, "room.json").depth, true_depth, rtol=1e-4)


def test_planes(folder, known):
    box = Surfaces.shoebox(SIZE)
    for given in ({"room_size": SIZE.tolist()}, {"surfaces": box.to_json()}):
        found = read_geometry(given, folder, known, "room.json")
        np.testing.assert_array_equal(found.points, box.points)


def test_a_file_is_read_once_unless_it_changes(folder, known, true_depth):
    first = read_geometry("depth.npy", folder, known, "room.json")
    assert read_geometry("depth.npy", folder, known, "room.json") is first
    np.save(folder / "depth.npy", true_depth.astype(np.float32))
    assert read_geometry("depth.npy", folder, known, "room.json") is not first


def test_a_constant(folder, known):
    found = read_geometry({"constant": 2.5}, folder, known, "room.json")
    assert (found.depth == 2.5).all()
    assert found.trust == "assumed"
    assert not np.isfinite(found.bounds()).any()


def test_nothing_known_holds_every_position(known):
    found = nothing_known(known)
    assert found.trust == "assumed"
    points = found.depth[..., None] * directions() + known.receiver
    low, high = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
    everything = np.vstack([known.positions, known.receiver])
    np.testing.assert_allclose(low[:2], everything.min(axis=0)[:2] - 0.5, atol=0.01)
    np.testing.assert_allclose(high[:2], everything.max(axis=0)[:2] + 0.5, atol=0.01)
    np.testing.assert_allclose([low[2], high[2]], [0, 3], atol=0.01)


def test_nothing_known_below_zero():
    found = nothing_known(heard_at([[1, 1, -1.0], [2, 3, 0.5]]))
    assert found.notes[0].endswith("floor at z = -1.50 m")


def test_nothing_known_is_nearer_the_truth_than_any_constant():
    rays, wrong = directions(32, 64), {"box": [], "constant": []}
    weights = np.sqrt(1 - rays[..., 2] ** 2)
    for index in range(12):
        drawn = draw_room(5, index)
        truth = render_depth(drawn.surfaces, drawn.receiver, rays)
        known = heard_at(drawn.positions, drawn.receiver)
        guess = np.log(nothing_known(known).depth[4::8, 4::8])
        truth = np.log(np.where(np.isfinite(truth), truth, truth[np.isfinite(truth)].max()))
        constant = np.average(truth, weights=weights)  # chosen with the truth at hand
        for name, one in (("box", guess), ("constant", constant)):
            wrong[name].append(np.average(np.abs(one - truth), weights=weights))
    assert np.mean(wrong["box"]) < 0.6 * np.mean(wrong["constant"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "geometry is 3 but must be 'none', 'sound', 'sound-network', a mesh"),
        ("scan.las", "geometry is 'scan.las' but must be 'none', 'sound', 'sound-network', a mesh"),
        ({}, "geometry is {} but must be 'none'"),
        ({"mesh": "scan.ply", "depth": "depth.npy"}, "but must be 'none', .* or an object with one of room_size"),
        ("photo.jpg", "geometry 'photo.jpg' is a photograph; give .* depth-estimation model of transformers"),
        ({"room_size": [1, 0, 2]}, "three positive metres"),
        ({"room_size": [1, 2, 3], "unit": "m"}, "geometry has 'unit', but room_size stands alone"),
        ({"surfaces": []}, "must be a list of at least one surface"),
        ({"constant": 0}, "geometry constant is 0 but must be a number from 0.3 to 100"),
        ({"depth": "none.npy"}, "geometry depth is 'none.npy' but must be a file"),
    ],
)
def test_bad_entries(folder, known, given, message):
    with pytest.raises(InputError, match=message) as raised:
        read_geometry(given, folder, known, "room.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "given"),
    [("trimesh", "scan.ply"), ("embreex", "scan.ply"), ("OpenEXR", "x.exr"), ("PIL.Image", "x.png")],
)
def test_a_missing_package_is_named(folder, known, monkeypatch, missing, given):
    for name in ("x.exr", "x.png"):
        (folder / name).touch()
    monkeypatch.setitem(sys.modules, missing, None)
    name = missing.partition(".")[0]
    with pytest.raises(InputError, match=rf'needs the package {name}; pip install "haa-peft\[geometry\]"'):
        read_geometry(given, folder, known, "room.json")


def test_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert geometry_argument("none") == ("none", Path(), "--geometry none")
    Path("scan.ply").touch()
    assert geometry_argument("scan.ply")[0] == "scan.ply"
    Path("there").mkdir()
    for content, entry in (
        ({"mesh": "scan.ply"}, {"mesh": "scan.ply"}),
        ({"sample_rate": 48000, "geometry": "none"}, "none"),
        ({"sample_rate": 48000, "room_size": [1, 2, 3]}, {"room_size": [1, 2, 3]}),
    ):
        Path("there/geometry.json").write_text(json.dumps(content))
        assert geometry_argument("there/geometry.json")[:2] == (entry, Path("there"))
    Path("there/geometry.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        geometry_argument("there/geometry.json")
    with pytest.raises(InputError, match="--geometry is 'nothing' but must be none, sound, sound-network, a mesh"):
        geometry_argument("nothing")
