"""Runs that take a room to be what it is not, and runs that adapt nothing."""

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from haa_peft import load_backbone, load_room
from haa_peft.errors import InputError
from haa_peft.evaluation.evaluate import Metrics, errors
from haa_peft.geometry.estimate.shoebox import estimate_shoebox
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.studies.assumptions import Assumption, seen_in
from haa_peft.studies.execute import is_done, run_study
from haa_peft.studies.keys import job_settings
from haa_peft.studies.plan import Job, redraw
from haa_peft.studies.read import load_study
from haa_peft.studies.report import write_report
from haa_peft.studies.run import run_job
from tests.studies.conftest import kept_tests


@pytest.fixture
def other(room_folder, tmp_path):
    """Another room, of 9 x 8 x 4 m, whose receiver stands elsewhere."""
    folder = tmp_path / "hall" / "base"
    shutil.copytree(room_folder, folder)
    described = json.loads((folder / "room.json").read_text())
    described |= {"room_size": [9.0, 8.0, 4.0], "receiver_xyz": [7.0, 7.0, 1.5]}
    (folder / "room.json").write_text(json.dumps(described))
    return folder


def many_positions(room_folder, count=6000):
    """A room with so many that their errors' statistics are known."""
    room, rng = load_room(room_folder), np.random.default_rng(1)
    train, valid, test = np.split(np.arange(count), [count // 3, 2 * count // 3])
    positions = rng.uniform([1.2, 1.2, 1], [4.8, 2.8, 1.7], (count, 3))
    return dataclasses.replace(room, positions=positions, splits={"train": train, "valid": valid, "test": test})


@pytest.mark.parametrize("metres", [0.1, 0.3])
def test_positions_are_off_by_so_much(metres, room_folder):
    room = many_positions(room_folder)
    moved = Assumption(position_error=metres).applied(room, 3)
    shift = moved.positions - room.positions
    known = np.concatenate([room.splits["train"], room.splits["valid"]])
    assert not shift[room.splits["test"]].any()
    distance = np.linalg.norm(shift[known], axis=1)
    assert np.sqrt((distance**2).mean()) == pytest.approx(metres, rel=0.02)
    # a Maxwell distribution: its mean is sqrt(8 / 3 pi) of its rms
    assert distance.mean() == pytest.approx(metres * np.sqrt(8 / (3 * np.pi)), rel=0.02)
    np.testing.assert_allclose(shift[known].mean(axis=0), 0, atol=0.05 * metres)
    assert moved.geometry is room.geometry
    np.testing.assert_array_equal(moved.rirs, room.rirs)


def test_directions_are_the_seed_s_and_the_room_s(room_folder):
    room = many_positions(room_folder, 300)

    def shift(metres=0.1, seed=3, **changes):
        one = dataclasses.replace(room, **changes)
        return (Assumption(position_error=metres).applied(one, seed).positions - one.positions)[:200]

    first = shift()
    np.testing.assert_array_equal(shift(), first)
    same = np.isclose(shift(0.3), 3 * first).all(axis=1)
    assert same.mean() > 0.9  # but for those that would have left the room
    for differs in ({"seed": 4}, {"configuration": "panel"}, {"room": "hall"}):
        assert not np.isclose(shift(**differs), first).any(axis=1).mean() > 0.1


def test_displaced_positions_stay_in_the_room_and_off_the_receiver(room_folder):
    room = many_positions(room_folder, 900)
    positions = room.positions.copy()
    positions[:300] = np.random.default_rng(0).uniform([0, 0, 0], [6, 4, 2.7], (300, 3))
    positions[300:600] = room.receiver + np.array([0.02, 0, 0])
    moved = Assumption(position_error=0.3).applied(dataclasses.replace(room, positions=positions), 0).positions
    assert (moved > 0).all()
    assert (moved < [6, 4, 2.7]).all()
    assert (np.linalg.norm(moved - room.receiver, axis=1) > 0.01).all()
    assert (moved[:600] != positions[:600]).any(axis=1).mean() > 0.99


@pytest.mark.parametrize("geometry", ["none", "sound", {"constant": 3}, {"room_size": [7, 5, 3]}, "FILE"])
def test_geometry_is_what_the_room_has_if_read_so(geometry, study_file, room_folder, tmp_path):
    if geometry == "FILE":
        geometry = str(tmp_path / "geometry.json")
        Path(geometry).write_text(json.dumps({"geometry": {"sound": "shoebox", "floor": None}}))
    study = load_study(study_file(f"\n  other: {{geometry: {json.dumps(geometry)}}}"))
    room, expected = study.room("studio/base", 0, 12, "other"), load_room(room_folder, geometry)
    np.testing.assert_allclose(room.panorama, expected.panorama, atol=1e-5)  # levels are rounded otherwise
    assert study.room("studio/base", 0, 12).fingerprint == load_room(room_folder).fingerprint
    assert study.room("studio/base", 0, 12, "other") is room


def test_geometry_from_sound_is_that_of_the_seed_s_measurements(study_file, room_folder):
    runs = "\n  sound: {geometry: sound}\n  shifted: {geometry: sound, position_error: 0.3}"
    study, true = load_study(study_file(runs, draws="true")), load_room(room_folder)
    for run in ("sound", "shifted"):
        room = study.room("studio/base", 3, 12, run)
        train = redraw(true.splits, 3)["train"]
        assert np.array_equal(room.splits["train"], train)
        box = estimate_shoebox(true.rirs[train], room.positions[train], true.receiver)
        depth = render_depth(box.surfaces, true.receiver, directions())
        np.testing.assert_allclose(np.linalg.norm(room.panorama, axis=0), depth, rtol=1e-5)
        assert np.array_equal(room.positions, true.positions) == (run == "sound")


def test_another_room_s_panorama(study_file, other):
    runs = f"\n  wrong: {{geometry: {{of: {other}}}}}\n  mapped: {{geometry: {{of: {{studio: {other}, hall: x}}}}}}"
    study = load_study(study_file(runs))
    for run in ("wrong", "mapped"):
        room = study.room("studio/panel", 0, 12, run)
        np.testing.assert_allclose(room.panorama, load_room(other).panorama, atol=1e-5)
        assert np.array_equal(room.positions, study.room("studio/panel", 0, 12).positions)


@pytest.mark.slow
def test_a_study_of_them(study_file, other, tiny_backbone_file, tmp_path):
    runs = f"""
  lora: {{rank: 2}}
  zero: {{adapt: false, levels: none, label: "the backbone"}}
  wrong: {{rank: 2, geometry: &wrong {{of: {other}}}}}
  wrong-zero: {{adapt: false, levels: none, geometry: *wrong}}
  shifted: {{rank: 2, position_error: 0.3}}
  shifted-zero: {{adapt: false, levels: none, position_error: 0.3}}
"""
    path, out = study_file(runs, pairs="[[wrong, wrong-zero]]"), tmp_path / "out"
    study = load_study(path)
    run_study(study, out, workers=1)
    found = {name.split("-shots")[0]: test for name, test in kept_tests(out).items()}
    for run in ("wrong-zero", "shifted-zero"):  # the backbone's errors, computed here
        room, kept = study.room("studio/panel", 0, 12, run), found[f"studio-panel/{run}"]
        test = room.splits["test"]
        targets = room.positions[test] - room.receiver
        predicted = predict_rirs(load_backbone(tiny_backbone_file), RoomTensors.of_room(room), targets, 4, 0)
        expected = errors(Metrics.of(predicted, iso=False), Metrics.of(room.rirs[test], iso=False))
        np.testing.assert_allclose(np.array(kept["errors"]["c50_db"], dtype=float), expected["c50_db"], rtol=1e-4)
    base, panel = ({run: found[f"studio-{c}/{run}"] for run in ("backbone", *study.runs)} for c in ("base", "panel"))
    assert panel["zero"]["errors"] == panel["backbone"]["errors"]
    different = [json.dumps(panel[run]["errors"]) for run in study.runs]
    assert len(set(different)) == len(study.runs)
    for run in ("zero", "wrong-zero", "shifted-zero"):
        assert panel[run]["group"] == "baseline"
        assert (panel[run]["trainable_parameters"], panel[run]["validation"]) == (0, [])
    assert panel["wrong"]["validation"] != panel["lora"]["validation"]  # it trains and validates so
    # what the study was of is kept, and what is true of the room is shown
    assert panel["shifted"]["settings"]["position_error"] == panel["shifted"]["job"]["position_error"] == 0.3
    assert panel["wrong"]["settings"]["geometry"] == {"of": str(other)}
    for run in ("wrong", "shifted"):
        for key in ("floor_plan", "room_fingerprint", "positions_xyz", "receiver_xyz", "splits"):
            assert panel[run][key] == panel["lora"][key]
    assert base["wrong"]["floor_plan"] == base["lora"]["floor_plan"]
    # a finished study is resumed without a run, another geometry or error is not taken for it
    run_study(load_study(path), out, workers=1)
    page = write_report(out, compare_with="lora", title="t", question="q", pairs=study.pairs).read_text()
    assert "| wrong | wrong-zero | measured" in page
    assert not list(out.glob("size-*.png"))  # all are of one size
    described = json.loads((other / "room.json").read_text())
    (other / "room.json").write_text(json.dumps(described | {"receiver_xyz": [7.0, 6.0, 1.5]}))
    seen_in.cache_clear()  # as in another process
    with pytest.raises(InputError, match="wrong-shots12-seed0.json is of another geometry; give another --out"):
        run_study(load_study(path), out, workers=1)
    path.write_text(path.read_text().replace("0.3", "0.1").replace("wrong", "wrong-again"))
    with pytest.raises(InputError, match="shifted.*-shots12-seed0.json is of another position_error"):
        run_study(load_study(path), out, workers=1)


def test_a_zero_shot_run_is_cheap_and_has_no_settings_of_training(study_file, monkeypatch):
    study = load_study(study_file("\n  zero: {adapt: false, geometry: none}\n  lora: {rank: 2}"))
    monkeypatch.setattr("haa_peft.studies.run.adapt_room", None)
    job = Job("zero", "studio/base", 12, 0)
    (test,), _ = run_job(study, job, {})
    assert job_settings(study, job) == test["job"]
    assert set(test["job"]) == {"k", "draws", "split", "room", "backbone", "seed", "geometry", "adapt", "levels"}
    assert test["job"]["geometry"] == {"studio/base": "none"}
    # a run that takes its room to be what it is has what it had before there were other ones
    assert set(job_settings(study, Job("lora", "studio/base", 12, 0))) == {
        "k", "draws", "split", "room", "backbone", "seed", "method", "training", "used", "sources", "first_stage",
    }  # fmt: skip


def test_channels_are_those_of_the_geometry_that_a_run_takes(study_file, room_folder, tmp_path):
    """In a room whose own planes have no materials; another class is another run."""
    walls = Surfaces.shoebox([6.0, 4.0, 2.7]).to_json()
    keys = []
    for material in ("wood", "curtain"):
        (tmp_path / "walls.json").write_text(json.dumps({"surfaces": [{**w, "material": material} for w in walls]}))
        study = load_study(
            study_file(f"\n  labelled: {{geometry: {tmp_path / 'walls.json'}, rank: 2, channels: materials}}")
        )
        keys.append(job_settings(study, Job("labelled", "studio/base", 12, 0)))
    assert keys[0]["channels"] != keys[1]["channels"]
    (test,), _ = run_job(study, Job("labelled", "studio/base", 12, 0), {})
    assert test["job"] == keys[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["methods-r3vival", "transfer", "rank-and-placement", "geometry"])
def test_committed_results_are_resumed(name, shared_data, tmp_path, monkeypatch):
    """Of one seed and the rooms of R3VIVAL: what is packed is taken for done."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    study, checked = load_study(Path(f"recipes/studies/{name}.yaml")), 0
    with tarfile.open(root / "recipes" / "results" / name / "runs.tar.xz") as packed:
        packed.extractall(
            tmp_path, [m for m in packed.getmembers() if m.name.startswith("runs/r3vival-") and "seed0" in m.name],
            filter="data",
        )  # fmt: skip
    for room in [room for room in study.rooms if room.startswith("r3vival")]:
        for run in [run for run in study.runs.values() if room in (run.only or study.rooms)]:
            checked += is_done(study, Job(run.name, room, (run.shots or study.shots)[0], 0), tmp_path)
    assert checked >= (12 if name == "methods-r3vival" else 21)  # that one has three runs in four rooms


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "geometry: {sun: 3}",
            "--geometry: geometry is {'sun': 3} but must be 'none', 'sound', 'sound-network', a mesh",
        ),
        ("geometry: nowhere.ply", "--geometry is 'nowhere.ply' but must be none, sound, sound-network, a mesh"),
        ("geometry: 3", "geometry is 3 but must be 'none'"),
        ("geometry: {constant: -1}", "geometry constant is -1 but must be a number from 0.3 to 100"),
        ("geometry: {room_size: [1, 1, 1]}", "the receiver .* lies outside the room"),
        ("geometry: {of: nowhere}", "nowhere: no such room folder"),
        ("geometry: {of: [a]}", "must be {of: ROOM}, another room's folder"),
        ("geometry: {of: {hall: nowhere}}", "must be {of: ROOM}, .* a mapping of rooms to folders that has studio"),
        ("geometry: {of: BASE}", "base is studio/base's own but must be another room's"),
        ("position_error: -0.1", "position_error is -0.1 but must be at least 0 and at most 2"),
        ("position_error: far", "position_error is 'far' but must be a number"),
        ("position_error: [1]", r"position_error is \[1\] but must be a number"),
        ("position_error: true", "position_error is True but must be a number"),
        ("adapt: 0", "adapt is 0 but must be true or false"),
        ("adapt: false, transfer: true", "adapt: false tests the backbone as it is, so transfer is of no use"),
    ],
)
def test_bad_runs(keys, message, study_file, room_folder):
    keys = keys.replace("BASE", str(room_folder))
    with pytest.raises(InputError, match=rf"run 'bad': .*{message}") as raised:
        load_study(study_file(f"\n  bad: {{{keys}}}"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": "valid"}, "run 'shifted': position_error displaces what is tested at; give split: test"),
        ({"pairs": "[[shifted]]"}, r"pairs holds \['shifted'\] but must be a pair of runs"),
        ({"pairs": "[[shifted, back]]"}, "pairs holds .* but must hold pairs of runs"),
        ({"pairs": "shifted"}, "pairs is 'shifted' but must be a list"),
        ({"defaults": "{}", "runs": "\n  true: {}"}, "run True is no text to YAML; put its name in quotes"),
    ],
)
def test_bad_studies(more, message, study_file):
    with pytest.raises(InputError, match=message):
        load_study(study_file(**({"runs": "\n  shifted: {position_error: 0.1}"} | more)))
