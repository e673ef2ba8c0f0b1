"""Adapting to many rooms: what is left, what fails alone, and the same adapters as one by one."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from haa_peft.cli import main
from haa_peft.commands import many, workers
from haa_peft.commands.workers import work_on
from haa_peft.errors import InputError
from haa_peft.simulation.corpus import shard_path, simulate_corpus
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, iterate_names
from tests.conftest import change_room

QUICK = ["--max-steps", "2", "--k", "4", "--validate-every", "1"]
NAMES = [AdapterName("building", name) for name in ("attic", "cellar", "hall")]


@pytest.fixture
def building(room_folder, tmp_path, monkeypatch, tiny_backbone_file):
    """Three rooms beside each other, one of which is louder and one farther, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        folder = Path("building", name.configuration)
        shutil.copytree(room_folder, folder)
        np.save(folder / "RIRs.npy", np.load(folder / "RIRs.npy") * (1 + number))
        change_room(folder, room="building", configuration=name.configuration)
    Path("building", "plans").mkdir()
    return ["--backbone", str(tiny_backbone_file), "--store", "store", *QUICK]


def adapt(*arguments):
    """Run it; the exit status."""
    try:
        main(["adapt", *arguments])
    except SystemExit as stopped:
        return stopped.code
    return 0


def states():
    return {str(path): path.stat().st_mtime_ns for path in Path("store").rglob("*") if path.is_file()}


def test_a_pattern_of_rooms_gives_the_adapters_of_one_by_one(building, capsys):
    assert adapt("building/*", *building, "--workers", "1") == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [f"{i}/3 {name}" for i, name in enumerate(NAMES, 1)]
    assert all("stored, 12 measurements" in line and "verdict at" in line for line in lines[:3])
    assert [line.split()[1] for line in lines if line.startswith("| building")] == [str(name) for name in NAMES]
    assert lines[-1].startswith("3 rooms: 3 stored, 0 already there, 0 failed; against the backbone ")
    assert list(iterate_names(Path("store"))) == NAMES
    assert adapt("building/hall", *building, "--name", "one/hall") == 0
    alone, one_of_many = (read_pack(Path("store"), name) for name in (AdapterName("one", "hall"), NAMES[2]))
    assert all(torch.equal(tensor, one_of_many.tensors[key]) for key, tensor in alone.tensors.items())
    for key in ("method", "room", "levels", "backbone"):
        assert alone.card[key] == one_of_many.card[key]


def test_what_is_done_is_left_out_until_settings_or_measurements_change(building, capsys):
    assert adapt("building/*", *building, "--workers", "1", "--json", "report.json") == 0
    before, said = states(), capsys.readouterr().out
    assert adapt("building/*", *building, "--workers", "1", "--json", "report.json") == 0
    assert states() == before
    again = capsys.readouterr().out
    assert [line.split(":")[1].split(",")[0] for line in again.splitlines()[:3]] == [" already there"] * 3
    assert [line.rsplit("|", 2)[0] for line in again.splitlines() if line.startswith("| building")] == [
        line.rsplit("|", 2)[0].rstrip().ljust(len(line.rsplit("|", 2)[0])) for line in said.splitlines()
        if line.startswith("| building")
    ]  # fmt: skip
    report = json.loads(Path("report.json").read_text())
    assert [(one["name"], one["outcome"]) for one in report["rooms"]] == [(str(name), many.THERE) for name in NAMES]
    # one that is damaged, one that was measured anew, and one as it was
    (NAMES[0].folder(Path("store")) / "references.safetensors").write_bytes(b"")
    np.save("building/cellar/RIRs.npy", np.load("building/cellar/RIRs.npy") * np.linspace(1, 0.5, 24_000))
    assert adapt("building/*", *building, "--workers", "1") == 0
    outcomes = {line.split()[1]: line.split("|")[-2].strip() for line in capsys.readouterr().out.splitlines()
                if line.startswith("| building")}  # fmt: skip
    assert outcomes == dict(zip(map(str, NAMES), (many.STORED, many.STORED, many.THERE), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [["--seed", "1"], ["--rank", "2"], ["--shots", "8"], ["--levels", "none"], ["--no-recordings"], ["--k", "3"],
     ["--validation", "leave-one-out"], ["--augment", "mirror"], ["--start", "building/attic"],
     ["--on-top-of", "building/attic"]],
    ids=" ".join,
)  # fmt: skip
def test_every_setting_counts(changed, building, capsys):
    assert adapt("building/attic", *building) == 0
    capsys.readouterr()
    for outcome in (many.STORED, many.THERE):
        assert adapt("building/hall", *building, *changed, "--workers", "1") == 0
        assert f"building/hall: {outcome}, " in capsys.readouterr().out
    assert adapt("building/hall", *building, "--workers", "1") == 0
    assert f"building/hall: {many.STORED}, " in capsys.readouterr().out


def test_a_room_that_fails_fails_alone(building, capsys):
    np.save("building/cellar/xyzs.npy", np.zeros((3, 3)))
    Path("building/attic/room.json").write_text("{")
    assert adapt("building/*", "nowhere", *building, "--workers", "1") == 1
    captured = capsys.readouterr()
    assert captured.err == "error: 3 of 4 rooms failed; the same command goes on with them\n"
    failed = [line for line in captured.out.splitlines() if "/4 FAILED " in line]
    assert len(failed) == 3
    assert "1/4 FAILED building/attic: " in failed[0]
    assert list(iterate_names(Path("store"))) == NAMES[2:]


def test_two_rooms_of_one_name_are_told(building, capsys):
    change_room(Path("building/hall"), configuration="attic")
    assert adapt("building/attic", "building/hall", *building, "--workers", "1") == 1
    assert "building/hall: is called building/attic as building/attic is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["garden/*"], "garden/* fits no room folder"),
        (["building/*", "--name", "a/b"], "--name goes with one room"),
        (["building/*", "--borrow", "a/b"], "--borrow goes with one room"),
        (["building/*", "--workers", "0"], "--workers is 0 but must be at least 1"),
        (["building/*", "--executor", "cloud"], "--executor is 'cloud' but must be one of local, ray"),
        (["--workers", "2"], "--workers and --executor go with rooms"),
        (["building/*", "--rank", "0"], "--rank is 0 but must be at least 1"),
    ],
)
def test_what_fits_no_room_is_said_at_once(arguments, message, building, capsys):
    assert adapt(*arguments, *(building if "--rank" not in arguments else building[:4])) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_words_of_verdicts():
    def found(*results):
        return {str(i): {"result": one, "positions": 3} for i, one in enumerate(results)}

    assert many.result(None) == "-"
    assert many.result({"edt_s": {"result": "undecided", "positions": 0}}) == "-"
    assert many.result(found("better", "undecided", "better")) == "better"
    assert many.result(found("undecided", "worse", "equal")) == "worse"
    assert many.result(found("better", "worse")) == "mixed"
    assert many.result(found("equal", "undecided")) == "undecided"
    assert many.result(found("equal", "equal")) == "same"


def square(deadly, number, device):
    """Work that ends its process where it should."""
    if number == deadly:
        os._exit(3)
    return number**2


@pytest.mark.slow
def test_a_task_that_ends_its_process_fails_alone():
    found = dict(work_on(square, 2, list(range(6)), workers=2))
    assert isinstance(found.pop(2), InputError)
    assert found == {number: number**2 for number in (0, 1, 3, 4, 5)}


def test_in_this_process_alone():
    assert dict(work_on(square, None, [3, 4], workers=1)) == {0: 9, 1: 16}
    assert not list(work_on(square, None, [], workers=4))


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes on this machine, one core each, to which this process is connected."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    memory = {"object_store_memory": 100 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    try:
        found.add_node(num_cpus=1, **memory)
        found.wait_for_nodes()
        ray.init(address=found.address, log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.mark.slow
def test_rooms_on_a_cluster_of_two_nodes(cluster, building, capsys):
    change_room(Path("building/attic"), receiver_xyz=[99, 99, 99])
    assert adapt("building/*", *building, "--executor", "ray") == 1
    said = capsys.readouterr().out
    assert "FAILED building/attic: " in said
    assert list(iterate_names(Path("store"))) == NAMES[1:]
    there = read_pack(Path("store"), NAMES[1])
    assert adapt("building/cellar", *building, "--store", "here", "--workers", "1") == 0
    here = read_pack(Path("here"), NAMES[1])
    for key, tensor in here.tensors.items():
        np.testing.assert_allclose(there.tensors[key], tensor, rtol=1e-4, atol=1e-6)
    assert adapt("building/*", *building, "--executor", "ray") == 1
    assert "2 already there" in capsys.readouterr().out


@pytest.mark.slow
def test_a_corpus_on_a_cluster_is_the_corpus(cluster, tmp_path):
    main(["pretrain", "simulate", "--count", "25", "--out", str(tmp_path / "ray"), "--executor", "ray"])
    simulate_corpus(tmp_path / "here", 25, 0, workers=1)
    there, here = (shard_path(tmp_path / name, 0).read_bytes() for name in ("ray", "here"))
    assert there == here


def test_ray_that_is_not_there(building, capsys, monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    assert adapt("building/*", *building, "--executor", "ray") == 2
    assert "--executor ray needs the package ray" in capsys.readouterr().err
