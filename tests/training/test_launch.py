"""The recipes as people start them, in processes of their own."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from haa_peft.adapters.settings import METHODS
from haa_peft.diagnosis.launch import processes_in_command
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.weights import save_backbone
from tests.conftest import TINY

REPOSITORY = Path(__file__).parents[2]
RECIPE = str(REPOSITORY / "recipes" / "finetune_lora.py")
TWO_ON_CPU = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launching(launcher, script, recipe=RECIPE, **environment):
    """Command and environment of a launch."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE", "HAA_PEFT"))}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *launcher, str(recipe), *script]
    return command, {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}


def launch(launcher, script, folder, recipe=RECIPE, **environment):
    command, clean = launching(launcher, script, recipe, **environment)
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=240, check=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_every_method_in_two_processes(room_folder, tmp_path):
    """The same validation losses as in one; a network with BatchNorm, which ``statistics`` needs."""
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, normalisation="batch")
    network = XRIR(config).eval()
    torch.nn.init.normal_(network.energy_blend.departure.weight, std=0.2)
    save_backbone(network, tmp_path / "batch.safetensors")
    runs = {
        "one": (
            ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"],
            {},
        ),
        "two": (
            [*TWO_ON_CPU, "--num_processes", "2", "--main_process_port", free_port()],
            {"ACCELERATE_USE_CPU": "true"},
        ),
    }
    for name, (launcher, environment) in runs.items():
        (tmp_path / name).mkdir()
        script = [str(tmp_path / name), str(tmp_path / "batch.safetensors"), str(room_folder)]
        recipe = Path(__file__).with_name("every_method.py")
        done = launch(launcher, script, tmp_path, recipe, **environment)
        assert done.returncode == 0, done.stderr
        assert f"{1 if name == 'one' else 2} processes" in done.stdout
    for method in (*METHODS, "channels"):
        one, two = (
            [
                [float(number) for number in line.split()]
                for line in (tmp_path / name / f"{method}.txt").read_text().splitlines()
            ]
            for name in runs
        )
        assert [step for step, _ in one] == ([0, 1] if method == "statistics" else [0, 3, 6])
        assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-3)
        first, second = (load_file(tmp_path / name / f"{method}.safetensors") for name in runs)
        assert first.keys() == second.keys()


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one(room_folder, tiny_backbone_file, tmp_path):
    script = ["--room", str(room_folder), "--backbone", str(tiny_backbone_file), "--k", "4", "--shots", "11"]
    script += [
        "--max-steps",
        "20",
        "--validate-every",
        "5",
        "--augment",
        "rotation",
        "scale",
        "translation",
        "positions",
    ]
    port = ["--main_process_port", free_port()]
    runs = {
        "one": (
            ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"],
            {},
        ),
        "two": ([*TWO_ON_CPU, "--num_processes", "2", *port], {"ACCELERATE_USE_CPU": "true"}),
    }
    for name, (launcher, environment) in runs.items():
        options = [
            "--store",
            str(tmp_path / name),
            "--run-dir",
            str(tmp_path / f"run-{name}"),
            "--json",
            f"{name}.json",
        ]
        done = launch(launcher, [*script, *options], tmp_path, **environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"{1 if name == 'one' else 2} process(es)" in done.stdout
    one, two = (load_file(tmp_path / name / "studio" / "base" / "adapter_model.safetensors") for name in runs)
    assert any(tensor.abs().max() > 1e-3 for key, tensor in one.items() if "lora_B" in key)  # it has learned
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-5)

    report = json.loads((tmp_path / "one.json").read_text())
    assert [row["predictor"] for row in report["rows"]] == [
        "nearest",
        "linear",
        "energy",
        "backbone",
        "levels alone",
        "studio/base",
    ]
    assert report["training"]["method"]["method"] == "lora"
    assert report["training"]["augment"] == {"rotation": 1.0, "translation": 0.5, "scale": 0.1, "positions": 0.05}
    assert len((tmp_path / "run-one" / "log.jsonl").read_text().splitlines()) == 20


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["--cpu", *TWO_ON_CPU[1:]], TWO_ON_CPU], ids=["cpu", "multi_gpu"])
def test_a_launch_that_silently_gives_fewer_processes_is_refused(launcher, room_folder, tiny_backbone_file, tmp_path):
    script = ["--room", str(room_folder), "--backbone", str(tiny_backbone_file)]
    port = ["--main_process_port", free_port()]
    done = launch([*launcher, "--num_processes", "2", *port], script, tmp_path)
    assert done.returncode != 0
    assert "error: the launch asked for 2 processes but this run has 1; on CPUs start it with" in done.stderr
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python bin/accelerate launch --num_processes 3 x.py --num_processes 9", 3),
        ("python /lib/accelerate/commands/launch.py --num_processes 2 x.py", 2),
        ("accelerate-launch --multi_gpu --num_processes=4 x.py", 4),
        ("python x.py --num_processes 5", None),
        ("pytest -k launch", None),
    ],
)
def test_processes_in_command(command, expected):
    assert processes_in_command(command.split()) == expected


def test_processes_in_a_config_file(tmp_path):
    (tmp_path / "two.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 2\n"
    )
    command = ["accelerate", "launch", "--config_file", str(tmp_path / "two.yaml"), "x.py"]
    assert processes_in_command(command) == 2


def test_bad_input_is_one_line(tmp_path):
    done = launch(["--num_processes", "1", "--num_machines", "1"], ["--room", "nowhere"], tmp_path)
    assert done.returncode != 0
    assert "error: nowhere: no such room folder" in done.stderr
