"""A month of use: rooms switched for ever, killed studies, launches that lose a process, adapting beside serving."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.commands.ending import command
from haa_peft.store.folder import write_pack
from haa_peft.studies import study
from tests.faults.test_threads import QUERIES, packs_of
from tests.studies.conftest import kept_tests, rooms, study_file  # noqa: F401
from tests.training.test_launch import TWO_ON_CPU, free_port, launching

COMMAND = [sys.executable, "-m", "haa_peft.cli"]
ONE_CORE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def switches(room_folder, backbone, store, count_of_rooms, count):
    """How far resident memory spreads, as a share, while that many switches and predictions follow a tenth of them."""
    states = packs_of(load_room(room_folder), backbone, count_of_rooms)
    for packs in states.values():
        write_pack(store, packs[0])
    names = list(map(str, states))
    predictor = RoomPredictor.load(names[0], store=store, backbone=backbone, max_loaded=len(names) // 2)
    rng, process, sizes = np.random.default_rng(4), psutil.Process(), []
    for i in range(count + count // 10):
        predictor.switch(names[rng.integers(len(names))])
        predictor.predict(QUERIES[i % len(QUERIES)])
        if i >= count // 10 and i % (count // 10) == 0:
            sizes.append(process.memory_info().rss)
    return max(sizes) / min(sizes) - 1


def test_some_switches(room_folder, tiny_backbone, tmp_path):
    assert switches(room_folder, tiny_backbone, tmp_path / "store", 4, 40) < 0.05


@pytest.mark.long
def test_ten_thousand_switches(room_folder, tiny_backbone, tmp_path):
    spread = switches(room_folder, tiny_backbone, tmp_path / "store", 64, 10_000)
    print(f"10000 switches and predictions over 64 rooms: resident memory within {100 * spread:.2f} %")
    assert spread < 0.02


def run_study(file, out):
    return subprocess.Popen([*COMMAND, "study", str(file), "--out", str(out), "--workers", "1"], env=ONE_CORE,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def results(file, out):
    """What a study kept and the pages of its report, seconds apart, which differ from time to time."""
    for path in out.rglob("runs/*/*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "seconds": kept["seconds"] and 1.0}))
    study(file, out=out, report_only=True)
    return kept_tests(out), {path.name: path.read_text() for path in out.glob("*.md")}


def killed_studies(file, tmp_path, count, kills):
    """A study of so many results is killed so often; all are those of an unbroken one, which runs beside it."""
    whole, out = run_study(file, tmp_path / "whole"), tmp_path / "killed"
    rng = np.random.default_rng(6)
    for point in sorted(rng.choice(count - 1, kills, replace=False)):
        process = run_study(file, out)
        while len(list(out.rglob("runs/*/*.json"))) <= point and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL  # it had not ended, nor failed
    assert (run_study(file, out).wait(), whole.wait()) == (0, 0)
    found = results(file, out)
    assert len(found[0]) == count
    assert found == results(file, tmp_path / "whole")


QUICK = "{max_steps: 2, validate_every: 1, caution: 0, levels: none}"


@pytest.mark.slow
def test_a_study_that_is_killed_twice(study_file, tmp_path):  # noqa: F811
    killed_studies(study_file("\n  bias: {method: bias}", defaults=QUICK), tmp_path, 2 * (4 + 1), 2)


@pytest.mark.long
def test_a_study_of_five_hundred_runs_that_is_killed_twenty_times(study_file, tmp_path):  # noqa: F811
    runs = "\n  lora: {rank: 2}\n  bias: {method: bias}\n  norm: {method: norm}\n  heads: {method: heads}"
    file = study_file(runs, seeds=list(range(25)), shots="[12, 6]", draws="[studio]", defaults=QUICK)
    killed_studies(file, tmp_path, 2 * 2 * 25 * (4 + 4), 20)
    print("a study of 500 runs killed 20 times: all 800 results and both pages as without a break")


def two_processes(room_folder, backbone_file, folder, *more):
    """Command and environment of two processes that adapt, with their log and their store in a folder."""
    script = ["--room", str(room_folder), "--backbone", str(backbone_file), "--k", "4", "--max-steps", "40"]
    script += ["--validate-every", "5", "--patience", "40", "--store", str(folder), "--run-dir", str(folder / "run")]
    launcher = [*TWO_ON_CPU, "--num_processes", "2", "--main_process_port", free_port()]
    return launching(launcher, [*script, *more], ACCELERATE_USE_CPU="true")


@pytest.mark.slow
def test_a_launch_that_loses_a_process_resumes(room_folder, tiny_backbone_file, tmp_path):
    """Whichever it is, the other one says so in a line, and what is resumed ends with the same weights."""
    command, environment = two_processes(room_folder, tiny_backbone_file, tmp_path / "whole")
    subprocess.run(command, env=environment, check=True)
    whole = load_file(tmp_path / "whole" / "studio" / "base" / "adapter_model.safetensors")
    for rank in ("0", "1"):
        command, environment = two_processes(room_folder, tiny_backbone_file, tmp_path / rank)
        broken = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        log = tmp_path / rank / "run" / "log.jsonl"
        while broken.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 11):
            time.sleep(0.01)
        lose_rank(rank, psutil.Process(broken.pid))
        _, said = broken.communicate(timeout=120)
        assert broken.returncode != 0
        assert said.count("terminated: once training has begun, the same command with --resume goes on") == 1
        assert 'finetune_lora.py", line' not in said  # no traceback but the launcher's
        command, environment = two_processes(room_folder, tiny_backbone_file, tmp_path / rank, "--resume")
        subprocess.run(command, env=environment, check=True)
        resumed = load_file(tmp_path / rank / "studio" / "base" / "adapter_model.safetensors")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def lose_rank(rank, launcher):
    (lost,) = (child for child in launcher.children() if child.environ().get("RANK") == rank)
    lost.kill()


@pytest.mark.parametrize(
    "loss", [lambda: signal.raise_signal(signal.SIGTERM), lambda: lose("Connection closed by peer")]
)
def test_the_loss_of_a_process_is_one_line(loss, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, command("go on"):
        loss()
    assert ended.value.code == 143
    assert capsys.readouterr().err.strip().splitlines() == [
        "terminated: go on; if another process of the launch died, its end is told below"
    ]
    assert signal.getsignal(signal.SIGTERM) == before


def lose(message):
    raise RuntimeError(message)


def serve_while_adapting(room_folder, backbone_file, store, count):
    """How many answers were given while another process adapted so often; each is that of a pack that was stored."""
    adapt = ["adapt", str(room_folder), "--backbone", str(backbone_file), "--k", "4", "--max-steps", "2",
             "--validate-every", "1", "--lr", "0.01", "--caution", "0", "--store", str(store), "--run-dir",
             str(store / "run"), "--seed"]  # fmt: skip
    main([*adapt, "0"])

    def fresh():
        return RoomPredictor.load("studio/base", store=store, backbone=str(backbone_file))

    predictor, served = fresh(), []
    stored = [predictor.predict(QUERIES).tobytes()]
    for seed in range(1, count + 1):
        process = subprocess.Popen([*COMMAND, *adapt, str(seed)], env=ONE_CORE, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            predictor.switch("studio/base")
            served.append(predictor.predict(QUERIES).tobytes())
        assert process.returncode == 0
        stored.append(fresh().predict(QUERIES).tobytes())
        predictor.switch("studio/base")
        assert predictor.predict(QUERIES).tobytes() == stored[-1]
    assert len(set(stored)) == count + 1
    assert set(served) <= set(stored)
    return len(served)


def test_serving_while_another_process_adapts(room_folder, tiny_backbone_file, tmp_path):
    assert serve_while_adapting(room_folder, tiny_backbone_file, tmp_path / "store", 1) > 0


@pytest.mark.long
def test_serving_while_another_process_adapts_twenty_times(room_folder, tiny_backbone_file, tmp_path):
    served = serve_while_adapting(room_folder, tiny_backbone_file, tmp_path / "store", 20)
    print(f"{served} answers while another process adapted 20 times: all of packs that were stored")
