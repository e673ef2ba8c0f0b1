"""Studies from their file to their report, on a made-up room and a tiny network."""

import dataclasses
import json
import multiprocessing
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from haa_peft import load_backbone, load_room
from haa_peft.adapters.methods import MethodSettings, attach_stored
from haa_peft.commands import workers
from haa_peft.errors import InputError
from haa_peft.evaluation.evaluate import Metrics, errors
from haa_peft.geometry.channels import parse_channels
from haa_peft.geometry.panorama import DepthMap
from haa_peft.main_job import adapt_room
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.studies import execute
from haa_peft.studies.execute import run_study
from haa_peft.studies.plan import Job, jobs_of, sources_of, waves
from haa_peft.studies.read import load_study
from haa_peft.studies.report import write_report
from haa_peft.studies.results import read_results
from haa_peft.studies.run import floor_plan
from haa_peft.training.adapt import adapt
from haa_peft.training.settings import TrainingSettings
from tests.studies.conftest import kept_tests


def test_the_floor_plan_of_a_depth_map_is_that_of_the_planes(room_folder):
    room = load_room(room_folder)
    seen = np.linalg.norm(room.panorama, axis=0)
    no_planes = DepthMap(seen, "seen", "measured", *room.geometry.bounds())
    plan = np.array(floor_plan(dataclasses.replace(room, geometry=no_planes)))
    assert plan.shape == (128, 2, 2)
    np.testing.assert_allclose(plan[:, 1], np.roll(plan[:, 0], -1, axis=0))  # closed
    # the room's 6 x 4 m, and all of it at a wall
    np.testing.assert_allclose([plan.min(axis=(0, 1)), plan.max(axis=(0, 1))], [[0, 0], [6, 4]], atol=0.02)
    x, y = plan[:, 0].T
    assert np.abs(np.stack([x, 6 - x, y, 4 - y])).min(axis=0).max() < 0.02


@pytest.mark.slow
def test_a_study(study_file, tiny_backbone_file, tmp_path, capsys):
    study, out = load_study(study_file(seeds="[0, 3]", draws="[studio]")), tmp_path / "out"
    assert [len(group) for group in waves(study)] == [2 * 2 * 4 + 2 * 2, 2 * 3]
    run_study(study, out, workers=1)
    found = kept_tests(out)
    own = [f"studio-{c}/{r}-shots12-seed{s}.json" for c in ("base", "panel") for s in (0, 3)
           for r in ("nearest", "linear", "energy", "backbone", "lora", "bias", "full")]  # fmt: skip
    panel = [
        f"studio-panel/{r}-shots12-seed{s}.json"
        for r in ("varied", "warm", "upper", "staged", "between", "lora-of-base")
        for s in (0, 3)
    ]
    assert set(found) == {*own, *panel, *(f"studio-base/lora-of-panel-shots12-seed{s}.json" for s in (0, 3))}
    # every seed has its own positions, and what is kept is enough to repeat them
    splits = [found[f"studio-base/lora-shots12-seed{seed}.json"]["splits"] for seed in (0, 3)]
    assert splits[0] != splits[1]
    assert splits[0]["test"] == splits[1]["test"]  # what tests never trains, whatever the seed
    for one in splits:
        assert sorted(i for split in one.values() for i in split) == list(range(20))
    # the errors of the backbone, computed here
    room, kept = study.room("studio/panel", 3, 12), found["studio-panel/backbone-shots12-seed3.json"]
    targets = room.positions[room.splits["test"]] - room.receiver
    predicted = predict_rirs(load_backbone(tiny_backbone_file), RoomTensors.of_room(room), targets, 4, 3)
    true = room.rirs[room.splits["test"]]
    expected = errors(Metrics.of(predicted, iso=False), Metrics.of(true, iso=False))
    np.testing.assert_allclose(np.array(kept["errors"]["edt_s"], dtype=float), expected["edt_s"], rtol=1e-4)
    np.testing.assert_allclose(np.array(kept["errors"]["c50_db"], dtype=float), expected["c50_db"], rtol=1e-4)
    assert kept["positions"] == room.splits["test"].tolist()
    assert found["studio-panel/lora-of-base-shots12-seed0.json"]["trained_on"] == "studio/base"
    assert found["studio-panel/upper-shots12-seed0.json"]["settings"]["on_top_of"] == {
        "run": "lora",
        "configuration": "base",
    }

    # what it was trained with is kept where it is not the default, and told apart
    varied, plain = (found[f"studio-panel/{run}-shots12-seed0.json"] for run in ("varied", "lora"))
    for settings in (varied["settings"], varied["job"]):
        assert settings["training"].pop("augment") == {"mirror": True, "positions": 0.1}
    assert varied["job"] == plain["job"]
    assert varied["errors"] != plain["errors"]

    # nothing is run twice, one run that is missing is
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    lost = out / "runs" / "studio-panel" / "warm-shots12-seed0.json"
    content = json.loads(lost.read_text())
    lost.unlink()
    run_study(study, out, workers=1)
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {lost}
    again = json.loads(lost.read_text())
    assert {**again, "seconds": 0} == {**content, "seconds": 0}
    page = write_report(out, compare_with="full", title="Made up", question="Which?")
    assert len(read_results(out)) == len(found)
    assert "| upper" in page.read_text()
    with pytest.raises(InputError, match="is of another .*; give another --out"):
        run_study(load_study(study_file(k="3")), out, workers=1)


@pytest.mark.slow
def test_few_measurements(study_file, tmp_path):
    runs = "\n  lora: {rank: 2, levels: none}"
    runs += "\n  warm: {rank: 2, levels: none, start: {run: lora, configuration: base}, only: [studio/panel]}"
    runs += "\n  few: {rank: 2, levels: none, shots: [3], start: {run: lora, configuration: {studio: base}}, "
    runs += "only: [studio/panel]}"
    runs += "\n  lent: {rank: 2, shots: [3], borrow: base, only: [studio/panel]}"
    study, out = load_study(study_file(runs, shots="[12, 3, 1]")), tmp_path / "out"
    run_study(study, out, workers=1)
    found = kept_tests(out)
    assert {test["k"] for name, test in found.items() if "shots3" in name and "lent" not in name} == {3}
    assert {len(test["splits"]["train"]) for name, test in found.items() if "shots1-" in name} == {1}
    assert found["studio-panel/lora-shots3-seed0.json"]["settings"]["training"]["k"] == 2
    lent = found["studio-panel/lent-shots3-seed0.json"]
    borrowed = lent["settings"]["borrowed"]
    assert borrowed == {"from": "studio/base", "measurements": borrowed["measurements"]}
    assert lent["k"] == min(4, 3 + borrowed["measurements"])
    assert len(lent["references_xyz"]) == 3 + borrowed["measurements"]
    assert len(lent["splits"]["train"]) == 3
    # with one measurement nothing is trained: the backbone, and the base's adapter
    panel = {name: found[f"studio-panel/{name}-shots1-seed0.json"] for name in ("backbone", "lora", "warm")}
    assert panel["lora"]["errors"] == panel["backbone"]["errors"]
    assert panel["lora"]["steps"] == panel["warm"]["steps"] == 0
    assert panel["warm"]["errors"] != panel["backbone"]["errors"]
    starts = sources_of(study, Job("warm", "studio/panel", 3, 0))
    assert starts == [Job("lora", "studio/base", 12, 0)]
    assert len(jobs_of(study)) == 2 * 3 * 2 + 3 + 1 + 1
    assert (
        found["studio-panel/few-shots3-seed0.json"]["errors"] == found["studio-panel/warm-shots3-seed0.json"]["errors"]
    )


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_gives_the_same(study_file, tmp_path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    study = load_study(study_file("\n  lora: {rank: 2}\n  warm: {rank: 2, start: {run: lora}}"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        import ray

        ray.init(address=cluster.address, log_to_driver=False)
        assert len(ray.nodes()) == 2
        run_study(study, tmp_path / "ray", executor="ray")
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
    run_study(study, tmp_path / "local", workers=1)
    there, here = kept_tests(tmp_path / "ray"), kept_tests(tmp_path / "local")
    assert there.keys() == here.keys()
    for name, test in here.items():
        for metric in ("edt_s", "c50_db"):
            theirs, ours = (np.array(one["errors"][metric], dtype=float) for one in (there[name], test))
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_faulty_room_of_a_first_stage_is_refused(study_file, rooms, tmp_path):
    np.save(rooms[0] / "RIRs.npy", np.load(rooms[0] / "RIRs.npy")[:, ::-1])
    runs = "\n  staged: {rank: 2, first_stage: [studio/base], only: [studio/panel], levels: none}"
    with pytest.raises(
        InputError, match=r"1 of .* runs failed; the first, staged in studio/panel.*studio/base: reversed"
    ):
        run_study(load_study(study_file(runs)), tmp_path / "out", workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["none", "normals"])
def test_a_first_stage_is_that_of_the_main_job_and_trained_once(
    channels, study_file, tiny_backbone_file, tmp_path, monkeypatch
):
    stages = []

    def counted(backbone, rooms, *rest):
        stages.append([room.name for room in rooms])
        return adapt(backbone, rooms, *rest)

    monkeypatch.setattr("haa_peft.studies.run.adapt", counted)
    runs = "\n  staged: {method: bias, lr: 1e-2, first_stage: [studio/base, studio/panel], levels: none, "
    runs += f"channels: {channels}}}"
    study = load_study(study_file(runs))
    run_study(study, tmp_path / "out", workers=1)
    assert stages == [["studio/base", "studio/panel"]]  # for both configurations
    kept = kept_tests(tmp_path / "out")
    base, panel = (study.room(name, 0, 12) for name in study.rooms)
    training = TrainingSettings(k=4, lr=1e-2, max_steps=2, validate_every=1, caution=0)
    for room in (base, panel):
        backbone = load_backbone(tiny_backbone_file)
        method = MethodSettings("bias", levels="none", channels=channels)
        adapted = adapt_room(room, method, training, backbone=backbone, first_stage=[base, panel])
        seen = room.with_channels(parse_channels(channels))
        targets = room.positions[room.splits["test"]] - room.receiver
        attached = attach_stored(backbone, *adapted.adapter)
        predicted = predict_rirs(backbone, RoomTensors.of_room(seen), targets, 4, 0)
        attached.detach()
        expected = errors(Metrics.of(predicted, iso=False), Metrics.of(room.rirs[room.splits["test"]], iso=False))
        found = kept[f"studio-{room.configuration}/staged-shots12-seed0.json"]
        np.testing.assert_allclose(np.array(found["errors"]["edt_s"], dtype=float), expected["edt_s"], rtol=1e-4)
        np.testing.assert_allclose(np.array(found["errors"]["c50_db"], dtype=float), expected["c50_db"], rtol=1e-4)


def test_a_run_that_gains_nothing_is_the_backbone(study_file, tmp_path):
    run_study(
        load_study(study_file("\n  lora: {rank: 2, caution: 90, levels: none}", seeds="[0]")),
        tmp_path / "out",
        workers=1,
    )
    kept = kept_tests(tmp_path / "out")
    lora = [test for name, test in kept.items() if Path(name).name.startswith("lora")]
    assert lora
    assert all(test["best_step"] == 0 for test in lora)
    for test in lora:
        same = [
            other
            for other in kept.values()
            if other["run"] == "backbone" and other["configuration"] == test["configuration"]
        ]
        assert [other["errors"] for other in same] == [test["errors"]]


CHANNELS = """
  seeing: {rank: 2, channels: normals, transfer: true}
  lora: {rank: 2}
  same: {use: {run: seeing}}
  mixed: {use: {run: seeing}, blend: {base: 1, panel: 0}, only: [studio/panel]}
"""


def test_runs_that_read_channels_and_those_that_use_their_adapters(study_file, tmp_path):
    study = load_study(study_file(CHANNELS, defaults="{max_steps: 4, validate_every: 2, caution: 0, lr: 0.05}"))
    run_study(study, tmp_path / "out", workers=1)
    kept = kept_tests(tmp_path / "out")
    of = {name: kept[f"studio-base/{name}-shots12-seed0.json"] for name in ("seeing", "same", "lora", "backbone")}
    assert of["seeing"]["best_step"] > 0
    assert of["seeing"]["settings"]["method"]["channels"] == "normals"
    assert of["same"]["errors"] == of["seeing"]["errors"] != of["lora"]["errors"]
    other = kept["studio-panel/seeing-of-base-shots12-seed0.json"]["errors"]["edt_s"]
    np.testing.assert_allclose(kept["studio-panel/mixed-shots12-seed0.json"]["errors"]["edt_s"], other, rtol=1e-3)
    assert all("channels" not in test["job"] for name, test in kept.items() if "lora" in name or "backbone" in name)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    run_study(study, tmp_path / "out", workers=1)  # nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}


def test_a_run_that_fails_does_not_end_the_others(study_file, tmp_path):
    runs = "\n  lora: {rank: 2}\n  bad: {method: statistics}\n  worse: {use: {run: bad}}"
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"4 of 8 runs failed; the first, bad in .*: method statistics needs a backbone"
    ):
        run_study(load_study(study_file(runs)), out, workers=1)
    assert {Path(name).name.split("-")[0] for name in kept_tests(out)} == {
        "nearest",
        "linear",
        "energy",
        "backbone",
        "lora",
    }


@pytest.mark.slow
def test_a_study_goes_on_when_a_worker_dies(study_file, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    study, out = load_study(study_file("\n  lora: {rank: 2}")), tmp_path / "out"

    others = set(multiprocessing.active_children())  # of tests before this one

    def killing(futures, **more):
        """Before anything is done, since workers take seconds to start."""
        monkeypatch.undo()
        min(set(multiprocessing.active_children()) - others, key=lambda child: child.pid).kill()
        return wait(futures, **more)

    monkeypatch.setattr(workers, "wait", killing)
    run_study(study, out, workers=2)
    assert "a worker died, exit code -9; 2 that ran are tried again one by one, 2 are left" in caplog.text
    assert len(kept_tests(out)) == 2 * 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_results_of_workers_keep_no_files_open(study_file):
    """Torch sends a tensor as an open file; hundreds of runs would exceed what a process may open."""
    study = load_study(study_file("\n  lora: {rank: 2}\n  warm: {rank: 2, start: {run: lora}}", seeds="[0, 1]"))
    plain = [job for job in jobs_of(study) if job.run == "lora"]
    ((_, done),) = workers.work_on(execute._try, study, [(plain[0], {})], workers=1)
    tasks = [(Job("warm", job.room, job.shots, job.seed), {job: done.adapter}) for job in plain]
    outcomes = workers.work_on(execute._try, study, tasks, workers=1)
    counts = [len(list(Path("/proc/self/fd").iterdir())) for _ in outcomes]
    assert len(counts) == 4
    assert max(counts) - counts[0] < 20  # an adapter has more tensors than that


@pytest.mark.parametrize("content", [b"", b"12345678{", (2).to_bytes(8, "little") + b"{}"])
def test_a_damaged_adapter_fails_its_run_alone(content, study_file):
    study = load_study(study_file("\n  lora: {rank: 2}\n  warm: {rank: 2, start: {run: lora}}"))
    job = next(job for job in jobs_of(study) if job.run == "warm")
    found = execute._try(study, (job, {sources_of(study, job)[0]: content}), None)
    assert "cannot be read; remove adapters/" in str(found)


def test_ray_that_is_not_there(study_file, tmp_path, monkeypatch):
    monkeypatch.setattr("haa_peft.commands.workers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package ray"):
        run_study(load_study(study_file()), tmp_path / "out", executor="ray")
