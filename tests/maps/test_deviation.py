"""Deviations against what predictors without a measurement give, and against the process' own way of leaving out."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from haa_peft import RoomPredictor, load_room
from haa_peft.acoustics.iso import iso_metrics
from haa_peft.levels.process import Places
from haa_peft.maps.deviation import Deviations, levels_deviation
from haa_peft.maps.field import predict_metrics
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

STORE = "adapters"


def student(count):
    """Where a Student distribution has as much as a normal one within one standard deviation."""
    return stats.t.ppf(stats.norm.cdf(1), count)


@pytest.fixture
def load(room_folder, tiny_backbone, tmp_path):
    """Gives a predictor of the room's training measurements but for some rows."""
    room = load_room(room_folder)

    def load(name, without=()):
        train = np.delete(room.splits["train"], list(without))
        part = dataclasses.replace(room, splits={**room.splits, "train": train})
        write_pack(tmp_path / "store", make_pack(part, tiny_backbone, AdapterName("studio", name)))
        return RoomPredictor.load(f"studio/{name}", store=tmp_path / "store", backbone=tiny_backbone)

    return load


def test_what_is_left_out_is_predicted_as_without_it(load):
    rows, rirs = load("whole").predict_left_out()
    position = load("whole").references[3]
    np.testing.assert_array_equal(rows, np.arange(12))
    np.testing.assert_allclose(rirs[3], load("part", [3]).predict(position)[0], atol=1e-5)


def test_nothing_is_left_out_of_one_measurement(load):
    rows, rirs = load("one", range(1, 12)).predict_left_out(k=1)
    assert rows.shape == (0,)
    assert rirs.shape == (0, 9600)
    assert np.isnan(predict_metrics(load("one", range(1, 12)), [[1.0, 1.0, 1.0]], k=1)["c50"].deviations).all()


def test_without_levels_it_is_the_error_of_what_is_left_out(load):
    predictor = load("whole")
    _, rirs = predictor.predict_left_out()
    clarity = [iso_metrics(one, 22_050, bands=())["broadband"]["c50_db"] for one in (rirs, predictor.measured().rirs)]
    expected = np.sqrt(((clarity[0] - clarity[1]) ** 2).mean()) * student(12)
    found = predict_metrics(predictor, [[1.0, 1.0, 1.0], [4.0, 3.0, 1.5]])["c50"].deviations
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_levels_without_some_measurements_are_those_of_the_process_without_them():
    levels = RoomPredictor.load("classroom-twin/base", store=STORE).measured().levels
    keep = np.arange(12) % 3 > 0
    asked = Places.of(np.array([[1.0, -2.0, 0.2], [-1.5, -3.0, 0.0]]), np.zeros(2))
    other = levels.process.predict(asked, ~keep)
    np.testing.assert_allclose(levels.seeing(keep).process.predict(asked), other, atol=1e-3)


def test_less_is_known_far_from_measurements_and_never_less_than_chance():
    predictor = RoomPredictor.load("classroom-twin/base", store=STORE)
    receiver, positions, _, levels = predictor.measured()
    near, far = (levels_deviation(levels, place[None] - receiver)[0] for place in (positions[0] + 0.01, receiver + 0.1))
    chance = np.sqrt((levels.process.parameters.value("chance").numpy() ** 2).mean())
    assert chance < near < far


def test_a_metric_is_off_as_its_left_out_errors_say():
    """Errors of the left out over their deviations have a root mean square of one, but for Student's factor."""
    predictor = RoomPredictor.load("classroom-twin/base", store=STORE)
    known = Deviations(predictor)
    rows, rirs = predictor.predict_left_out()
    receiver, positions, measured, levels = predictor.measured()
    errors = [iso_metrics(one, 22_050, bands=(1000,))["1000"]["edt_s"] for one in (rirs, measured[rows])]
    decibels = [levels_deviation(levels.seeing(np.arange(12) != row), positions[[row]] - receiver)[0] for row in rows]
    ratio = (errors[0] - errors[1]) / decibels / known.per_decibel("edt", "1000")
    defined = int(np.isfinite(ratio).sum())
    assert np.nanmean(ratio**2) == pytest.approx(1 / student(defined) ** 2, rel=1e-3)
