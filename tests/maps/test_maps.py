"""Maps hold what is predicted at their points, and are drawn and written so that others read them."""

import csv
import io

import numpy as np
import pytest

from haa_peft import RoomPredictor, load_room
from haa_peft.acoustics.iso import iso_metrics
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import DepthMap
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.maps.field import Map, make_map, predict_metrics
from haa_peft.maps.plan import floor_plan
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

POINTS = np.array([[1.0, 1.0, 1.3], [4.0, 1.0, 1.3], [1.0, 3.0, 1.3], [4.0, 3.0, 1.3]])


@pytest.fixture
def predictor(room_folder, tiny_backbone, tmp_path):
    room = load_room(room_folder)
    for configuration, shift in (("base", 0.01), ("other", 0.3)):
        write_pack(tmp_path / "store", make_pack(room, tiny_backbone, AdapterName("studio", configuration), shift))
    return RoomPredictor.load("studio/base", store=tmp_path / "store", backbone=tiny_backbone)


def read(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_metrics_are_those_of_the_predicted_rirs(predictor):
    found = predict_metrics(predictor, POINTS, ("c50", "edt", "level"), "500")
    rirs = predictor.predict(POINTS)
    expected = iso_metrics(rirs, 22_050, bands=(500,))["500"]
    np.testing.assert_allclose(found["c50"].values, expected["c50_db"], rtol=1e-5)
    np.testing.assert_allclose(found["edt"].values, expected["edt_s"], rtol=1e-5)
    assert set(found) == {"c50", "edt", "level"}


def test_levels_are_in_the_unit_of_the_measurements(predictor):
    energy = (predictor.predict(POINTS).astype(float) ** 2).sum(axis=1) * predictor.scale**2 / 22_050
    found = predict_metrics(predictor, POINTS, ("level",))["level"].values
    np.testing.assert_allclose(found, 10 * np.log10(energy), atol=1e-4)


def test_no_positions_have_no_metrics(predictor):
    found = predict_metrics(predictor, [])["c50"]
    assert found.values.shape == found.deviations.shape == (0,)


def test_a_map_as_a_table(predictor):
    field = make_map(predictor, POINTS, "c50")
    rows = read(field.to_csv())
    predicted = [row for row in rows if row["kind"] == "predicted"]
    assert [float(row["x_m"]) for row in predicted] == [1, 4, 1, 4]
    np.testing.assert_allclose([float(row["c50_db"]) for row in predicted], field.estimate.values, rtol=1e-4)
    measured = [row for row in rows if row["kind"] == "measured"]
    expected = iso_metrics(predictor.measured().rirs, 22_050, bands=())["broadband"]["c50_db"]
    np.testing.assert_allclose([float(row["c50_db"]) for row in measured], expected, rtol=1e-4)
    assert {row["standard_deviation"] for row in measured} == {""}


def test_a_configuration_less_itself_is_nothing(predictor):
    field = make_map(predictor, POINTS, "edt")
    nothing = field.minus(field)
    np.testing.assert_array_equal(nothing.estimate.values, 0)
    np.testing.assert_array_equal(nothing.measured, 0)
    np.testing.assert_allclose(nothing.estimate.deviations, np.sqrt(2) * field.estimate.deviations)


def test_maps_of_different_metrics_have_no_difference(predictor):
    one, other = (make_map(predictor, POINTS, metric) for metric in ("c50", "d50"))
    with pytest.raises(InputError, match="maps of different metrics, bands or points"):
        one.minus(other)


def run(tmp_path, monkeypatch, tiny_backbone_file, *arguments):
    monkeypatch.setenv("HAA_PEFT_STORE", str(tmp_path / "store"))
    main(["map", "studio/base", "--backbone", str(tiny_backbone_file), *map(str, arguments)])


def test_the_command_draws_a_difference(predictor, tmp_path, monkeypatch, tiny_backbone_file, capsys):
    pytest.importorskip("matplotlib")
    from PIL import Image

    out = tmp_path / "map.png"
    arguments = ["--minus", "studio/other", "--grid", 1, "--height", 1.2, "--metric", "d50", "--out", out]
    run(tmp_path, monkeypatch, tiny_backbone_file, *arguments)
    assert "d50 of studio/base - studio/other at 24 points, 1.2 m high" in capsys.readouterr().out
    with Image.open(out) as picture:
        corner = picture.convert("RGB").getpixel((2, 2))
        colours = picture.convert("RGB").resize((200, 100)).getcolors(20_000)
    assert corner == (255, 255, 255)
    assert len(colours) > 50


def test_the_command_writes_a_table(predictor, tmp_path, monkeypatch, tiny_backbone_file):
    out = tmp_path / "map.csv"
    run(tmp_path, monkeypatch, tiny_backbone_file, "--metric", "edt", "--band", 1000, "--grid", 1, "--out", out)
    rows = [row for row in read(out.read_bytes()) if row["kind"] == "predicted"]
    assert len(rows) == 24  # of 6 m x 4 m
    where = np.array([[float(row[axis]) for axis in ("x_m", "y_m", "z_m")] for row in rows])
    expected = iso_metrics(predictor.predict(where), 22_050, bands=(1000,))["1000"]["edt_s"]
    np.testing.assert_allclose([float(row["edt_s"]) for row in rows], expected, rtol=1e-3)
    assert all(float(row["standard_deviation"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "map.jpg"], "--out is 'map.jpg' but must end in .png or .csv"),
        (["--metric", "sti", "--band", "500", "--out", "map.csv"], "STI is of all octaves at once"),
        (["--height", "9", "--out", "map.csv"], "no point of the grid lies in the room"),
        (["--minus", "studio/none", "--grid", "2", "--out", "map.csv"], "studio/none"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    predictor, tmp_path, monkeypatch, tiny_backbone_file, arguments, said, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, monkeypatch, tiny_backbone_file, *arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert not (tmp_path / "map.csv").exists()


def lines(found):
    return sorted(sorted(map(tuple, line.tolist())) for line in found)


def test_walls_of_a_box_and_a_panel_above():
    panel = [{"points": [[1, 1, 2], [3, 1, 2], [1, 1, 2.5]]}]
    room = Surfaces.from_json(Surfaces.shoebox([4, 5, 3]).to_json() + panel, "a test")
    plan = floor_plan(room, np.array([2, 2, 1.0]), 1.2)
    assert lines(plan.walls) == lines(
        np.array([[[0, 0], [0, 5]], [[4, 0], [4, 5]], [[0, 0], [4, 0]], [[0, 5], [4, 5]]])
    )
    assert lines(plan.elsewhere) == [[(1, 1), (3, 1)]]
    assert lines(floor_plan(room, np.array([2, 2, 1.0]), 2.2).elsewhere) == []


def test_what_a_depth_map_sees_at_a_height():
    """A sphere of 3 m around the receiver is a circle of 3 m at its height; 1.8 m above, of 2.4 m."""
    ball = DepthMap(np.full((256, 512), 3.0), "made", "stated", np.full(3, -3.0), np.full(3, 3.0))
    for height, radius in ((0.0, 3.0), (1.8, 2.4)):
        (line,) = floor_plan(ball, np.zeros(3), height).walls
        np.testing.assert_allclose(np.linalg.norm(line, axis=1), radius, atol=0.03)
        np.testing.assert_array_equal(line[0], line[-1])


def test_a_depth_of_which_no_bounds_are_known_has_no_walls():
    depth = DepthMap.unbounded(np.full((256, 512), 3.0), "made", ())
    assert floor_plan(depth, np.zeros(3), 0.0).walls == []


def test_values_that_are_not_defined_are_empty_in_a_table(predictor):
    field = make_map(predictor, POINTS, "c50")
    field.estimate.values[0] = np.nan
    assert read(field.to_csv())[0]["c50_db"] == ""
    assert isinstance(field, Map)
