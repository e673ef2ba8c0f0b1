import json

import numpy as np
import pytest
import torch

from haa_peft import load_room
from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import magnitude
from haa_peft.commands.tables import report_table
from haa_peft.errors import InputError
from haa_peft.evaluation.baselines import baselines, energy_interpolation, linear_interpolation
from haa_peft.evaluation.evaluate import evaluate
from haa_peft.files import nan_to_null
from haa_peft.model.predict import nearest_references
from tests.conftest import decaying_noise


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def test_the_truth_has_no_error(room):
    true = room.rirs[room.splits["test"]]
    report = evaluate(room, {"truth": true}, k=8, seed=0)
    (row,) = report["rows"]
    for metric in ("edt_s", "c50_db", "t60_percent", "t60_30_percent", "envelope_percent"):
        assert row[metric] == 0
    assert row["iso"]["broadband"]["edt_percent"] == 0
    assert set(row["iso"]) == {"broadband", "125", "250", "500", "1000", "2000", "4000"}


def test_errors_are_of_the_metrics(room):
    """A truth made 6 dB weaker after 50 ms has its C50 raised by 6 dB."""
    true = room.rirs[room.splits["test"]]
    changed = true.copy()
    changed[:, 1103:] *= 10 ** (-6 / 20)
    (row,) = evaluate(room, {"changed": changed}, k=8, seed=0)["rows"]
    assert row["c50_db"] == pytest.approx(6, abs=1e-3)
    assert row["per_position"]["c50_db"] == pytest.approx([6] * len(true), abs=1e-3)


def test_baselines_at_a_reference_are_that_reference(room):
    for k in (1, 4):
        found = baselines(room, k, "train")
        np.testing.assert_allclose(found["nearest"], room.rirs[room.splits["train"]], atol=1e-6)
        np.testing.assert_allclose(found["linear"], room.rirs[room.splits["train"]], atol=1e-4)


def test_linear_interpolation_weighs_by_inverse_distance():
    rirs = np.zeros((3, 9600), dtype=np.float32)
    rirs[0, 100], rirs[1, 200], rirs[2, 300] = 1, 1, 1
    # all at 2 m from the receiver, so that alignment changes nothing
    angle = np.array([0.0, 0.2, 2.0])
    places = 2 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    target = 2 * np.array([[np.cos(0.05), np.sin(0.05), 0.0]])
    (result,) = linear_interpolation(rirs, places, nearest_references(target, places, 2), target)
    distance = np.linalg.norm(places - target, axis=1)
    assert result[100] / result[200] == pytest.approx(distance[1] / distance[0], rel=1e-5)
    assert result[100] + result[200] == pytest.approx(1, rel=1e-5)
    assert result[300] == 0


def test_reports_are_json_and_name_their_protocol(room):
    report = evaluate(room, baselines(room, 8), k=8, seed=3)
    again = json.loads(json.dumps(nan_to_null(report), allow_nan=False))
    assert (again["room"], again["configuration"], again["split"], again["k"], again["seed"]) == (
        "studio",
        "base",
        "test",
        8,
        3,
    )
    assert again["positions"] == len(room.splits["test"]) == len(again["rows"][0]["per_position"]["edt_s"])
    assert [row["predictor"] for row in again["rows"]] == ["nearest", "linear", "energy"]
    table = report_table(report)
    assert "studio/base: mean absolute errors at 4 test positions, 12 measurements, K = 8, seed 3" in table
    assert all(len(line) == len(table.splitlines()[2]) for line in table.splitlines()[2:])


@pytest.mark.parametrize(("name", "edt", "c50"), [("classroomBase", 0.091, 1.99), ("hallwayBase", 0.105, 1.50)])
def test_known_nearest_neighbour_figures(shared_data, name, edt, c50):
    """Section 5 of the research notes: nearest aligned training RIR, measured before this project."""
    room = load_room(shared_data / "haa-reconstruction" / name)
    test = room.splits["test"]
    ours = paper_metrics(baselines(room, 1)["nearest"], 22_050)
    true = paper_metrics(room.rirs[test], 22_050)
    assert np.abs(ours["edt_s"] - true["edt_s"]).mean() == pytest.approx(edt, rel=0.1)
    assert np.abs(ours["c50_db"] - true["c50_db"]).mean() == pytest.approx(c50, rel=0.1)


def test_undefined_is_counted_not_hidden(room):
    impulse = np.zeros_like(room.rirs[room.splits["test"]])
    impulse[:, 50] = 1
    (row,) = evaluate(room, {"impulse": impulse}, k=8, seed=0)["rows"]
    assert row["undefined"]["t60_percent"] == len(impulse)
    assert np.isnan(row["t60_percent"])
    assert row["iso_defined"]["broadband"]["t20_percent"] == 0
    (line,) = [
        line
        for line in report_table(evaluate(room, {"impulse": impulse}, k=8, seed=0)).splitlines()
        if "impulse" in line
    ]
    assert line.replace(" ", "").split("|")[4] == "-"


def test_no_test_positions(room):
    import dataclasses

    alone = dataclasses.replace(room, splits={**room.splits, "test": np.array([], dtype=int)})
    with pytest.raises(InputError, match="has no test positions"):
        evaluate(alone, {}, k=8, seed=0)


def test_energy_interpolation_keeps_the_decay_of_a_quiet_dry_room():
    """Where the spectrogram's floor, summed over a long silence, would reach up to -20 dB."""
    place = np.array([[3.0, 0, 0]])
    rir = np.float32(0.1) * decaying_noise(1, 9600, 22_050, 0.12, [3.0])
    (found,) = energy_interpolation(rir, place, np.array([[0]]), place)
    true, decay = (paper_metrics(x, 22_050)["t60_20_s"][0] for x in (rir, found[None]))
    assert decay == pytest.approx(true, rel=0.05)
    floor = magnitude(torch.from_numpy(rir)).square().sum(dim=1)
    assert float(floor[:, 160:].sum()) > 10**-2.5 * float(floor.sum())  # with it, decay curves end at -25 dB
