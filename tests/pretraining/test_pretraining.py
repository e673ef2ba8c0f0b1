import dataclasses
import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from haa_peft import load_backbone
from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions
from haa_peft.model.config import XRIRConfig
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining import backbone as pretraining_of_backbones
from haa_peft.pretraining.learner import Learner
from haa_peft.pretraining.loop import (
    PooledPanoramas,
    PretrainingObjective,
    draw_batch,
    draw_queries,
    load_tensors,
    turned,
)
from haa_peft.pretraining.settings import BackboneTraining
from haa_peft.pretraining.weights import SMALL
from haa_peft.simulation import corpus as corpus_module
from haa_peft.simulation.corpus import FORMAT, ROOMS_PER_SHARD, Corpus, shard_path, write_shard
from haa_peft.simulation.draw import SOURCES_PER_ROOM
from haa_peft.training.schedule import warmup_cosine
from tests.conftest import TINY, decaying_noise
from tests.training.test_launch import free_port, launch

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain_backbone.py"
PLAIN = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture
def corpus_folder(tmp_path):
    """One shard of rooms of the real distribution, with made-up RIRs."""
    folder = tmp_path / "corpus"
    folder.mkdir()

    def made_up(room, seed):
        distances = np.linalg.norm(room.positions - room.receiver, axis=1)
        return decaying_noise(SOURCES_PER_ROOM, 9600, 22_050, 0.3, distances)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "simulate", made_up)
        write_shard(folder, 0, False, 0)
    about = {"seed": 0, "odd": False, "rooms_per_shard": ROOMS_PER_SHARD, "sources_per_room": SOURCES_PER_ROOM}
    (folder / "corpus.json").write_text(json.dumps({"format": FORMAT, **about}))
    return folder


def test_augmentation_turns_geometry_and_positions_alike(corpus_folder):
    corpus = Corpus(corpus_folder)
    panoramas = PooledPanoramas(corpus, 1)
    rays = torch.from_numpy(directions()).float().permute(2, 0, 1)
    for seed in range(4):
        room = load_tensors(corpus, panoramas, 3)
        other = turned(room, np.random.default_rng(seed))
        # every pixel still shows what lies in its direction
        directed = other.panorama / other.panorama.norm(dim=0)
        torch.testing.assert_close(directed, rays, atol=1e-4, rtol=0)
        # and every position has its old distances to the walls
        before, after = (
            torch.cdist(r.positions, r.panorama.flatten(1).T).sort(dim=1).values for r in (room, other)
        )  # fmt: skip
        torch.testing.assert_close(before, after, atol=1e-3, rtol=0)
        assert not torch.allclose(room.positions, other.positions, atol=1e-2)


def test_targets_are_not_their_own_references():
    targets, references = draw_queries(np.random.default_rng(0), 16, 12, 8)
    assert len(set(targets)) == 12
    for target, chosen in zip(targets, references, strict=True):
        assert target not in chosen
        assert len(set(chosen)) == 8


def test_rooms_of_few_sources_give_what_they_have():
    targets, references = draw_queries(np.random.default_rng(0), 5, 12, 8)
    assert sorted(targets) == [0, 1, 2, 3, 4]
    assert references.shape == (5, 4)


def test_learning_rate_rises_and_falls():
    factor = warmup_cosine(10, 110)
    rates = [factor(step) for step in range(111)]
    assert rates[9] == rates[10] == pytest.approx(1)
    assert rates[60] == pytest.approx((1 + 0.02) / 2)
    assert rates[110] == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def load_recipe(path=RECIPE):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--k 16", "--k is 16 but must be at least 1 and at most 15"),
        ("--targets 0", "--targets is 0"),
        ("--count 25 --validation-rooms 25", "--validation-rooms is 25 but must be at most 24"),
        ("--rooms-per-step 0", "--rooms-per-step is 0"),
        ("--validate-every 0", "--validate-every is 0"),
        ("--lr nan", "--lr is nan"),
        ("--config nowhere.json", "--config nowhere.json: cannot be read"),
    ],
)
def test_bad_options(options, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrain_backbone.py", *options.split()])
    with pytest.raises(InputError, match=message):
        load_recipe().main()
    assert not list(tmp_path.iterdir())  # nothing was simulated


def test_energies_alone_give_the_loss_and_gradients_of_whole_spectra(corpus_folder):
    torch.manual_seed(0)
    backbone = XRIR(TINY).eval().double()  # to tell rounding from errors
    for parameter in backbone.parameters():  # also the weights that start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    corpus = Corpus(corpus_folder)
    batch = draw_batch(
        corpus, PooledPanoramas(corpus, TINY.panorama_pooling), [3, 7], (0,), 6, 4, training=True, draws=2
    )
    assert [len(drawn.targets) for drawn in batch] == [12, 12]
    doubled = [RoomTensors(*(tensor.double() for tensor in drawn.room[:3])) for drawn in batch]
    batch = [d._replace(room=room, unturned=d.unturned.double()) for d, room in zip(batch, doubled, strict=True)]
    found = []
    for only_energies in (True, False):
        objective = PretrainingObjective(backbone)
        objective.only_energies = only_energies
        loss = objective(batch)
        backbone.zero_grad()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
        found.append((loss.item(), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert float((found[0][1] - found[1][1]).norm()) < 1e-2 * float(found[1][1].norm())


def test_a_corpus_is_known_by_its_content(corpus_folder):
    before = Corpus(corpus_folder, 25).fingerprint()
    path = shard_path(corpus_folder, 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the RIRs
    path.write_bytes(content)
    assert Corpus(corpus_folder, 25).fingerprint() != before


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_says_how(corpus_folder, acoustic_rooms, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(TINY)))
    recipe = load_recipe()

    def run(out, *more):
        options = f"--corpus {corpus_folder} --config {tmp_path / 'config.json'} --count 25 --validation-rooms 2"
        options += f" --max-steps 4 --validate-every 2 --rooms-per-step 2 --targets 4 --k 4 --out {tmp_path / out}"
        monkeypatch.setattr(sys, "argv", ["pretrain_backbone.py", *options.split(), *more])
        recipe.main()

    run("whole.safetensors")
    weights = load_backbone(tmp_path / "whole.safetensors")
    story = json.loads((tmp_path / "whole.json").read_text())
    assert weights.config == TINY
    assert [point["step"] for point in story["curve"]] == [0, 2, 4]
    assert story["corpus"]["rooms"] == 25
    for more in ([], ["--resume"]):  # a run that has stopped stays so
        run("patient.safetensors", "--lr", "0", "--ema", "0", "--patience", "1", "--max-steps", "9", *more)
        patient = json.loads((tmp_path / "patient.json").read_text())
        assert [point["step"] for point in patient["curve"]] == [0, 2]
        assert patient["best_step"] == 0

    real, calls = pretraining_of_backbones.draw_batch, []

    def interrupted(*args, training, **more):
        calls.append(training)
        if training and sum(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, training=training, **more)

    monkeypatch.setattr(pretraining_of_backbones, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("broken.safetensors")
    monkeypatch.setattr(pretraining_of_backbones, "draw_batch", real)
    run("broken.safetensors", "--resume")
    resumed = json.loads((tmp_path / "broken.json").read_text())
    assert resumed["curve"] == story["curve"]
    with pytest.raises(InputError, match=r"whole.checkpoint is of a run that --resume goes on with"):
        run("whole.safetensors")
    with pytest.raises(InputError, match="goes on from --start"):
        run("more.safetensors", "--start", str(tmp_path / "whole.safetensors"))
    more = (
        f"--corpus {corpus_folder} --count 25 --validation-rooms 2 --max-steps 2 --rooms-per-step 2 --targets 4 --k 4"
    )
    more += f" --seed 5 --start {tmp_path / 'whole.safetensors'} --out {tmp_path / 'more.safetensors'}"
    monkeypatch.setattr(sys, "argv", ["pretrain_backbone.py", *more.split()])
    recipe.main()
    later = json.loads((tmp_path / "more.json").read_text())
    assert later["start"] == story
    assert later["corpus"]["seed"] == story["corpus"]["seed"] == 0
    best = min(point["validation"] for point in story["curve"])
    assert later["curve"][0]["validation"] == pytest.approx(best)
    run("mixed.safetensors", "--acoustic-rooms", str(acoustic_rooms))
    mixed = json.loads((tmp_path / "mixed.json").read_text())
    assert mixed["corpus"]["acoustic_rooms"]
    assert mixed["curve"] != story["curve"]  # other rooms were drawn
    assert resumed["fingerprint"] == story["fingerprint"]


def test_frozen_batch_norm_trains_as_it_evaluates(corpus_folder):
    backbone = XRIR(XRIRConfig(width=32, depth=1, heads=1, feedforward=32, channels=16, resnet_width=4))
    training = BackboneTraining(count=25, validation_rooms=2, rooms_per_step=2, lr=0, freeze_norm_after=1)
    learner = Learner(backbone, training, Accelerator(cpu=True))
    corpus = Corpus(corpus_folder, 25)
    batch = draw_batch(corpus, PooledPanoramas(corpus, 1), [0, 1], (0,), 2, 2, training=True)
    mean = backbone.audio_enc.cnn.bn1.running_mean
    before = mean.clone()
    learner.step(batch, 0)
    after = mean.clone()
    frozen = learner.step(batch, 1)
    assert not torch.equal(before, after)
    assert torch.equal(mean, after)
    assert frozen == pytest.approx(PretrainingObjective(backbone.eval())(batch).item(), rel=1e-5)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(corpus_folder, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(TINY)))
    options = f"--corpus {corpus_folder} --config {tmp_path / 'config.json'} --count 25 --validation-rooms 2 --k 4"
    options += " --max-steps 3 --validate-every 3 --rooms-per-step 4 --targets 4 --out"
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    monkeypatch.setattr(sys, "argv", ["pretrain_backbone.py", *options.split(), str(one)])
    load_recipe().main()
    launcher = ["--multi_gpu", "--num_processes", "2", *PLAIN, "--main_process_port", free_port()]
    done = launch(launcher, [*options.split(), str(two)], tmp_path, RECIPE, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr[-2000:]
    curves = [json.loads(out.with_suffix(".json").read_text())["curve"][-1] for out in (one, two)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.slow
def test_networks_are_compared_on_the_same_rooms(corpus_folder, tmp_path, monkeypatch, capsys):
    recipe = load_recipe(RECIPE.with_name("compare_backbones.py"))
    for changes in recipe.VARIANTS.values():
        dataclasses.replace(SMALL, **changes)
    options = f"--corpus {corpus_folder} --count 25 --validation-rooms 2 --rooms-per-step 2 --steps 8 --out {tmp_path}"
    report = tmp_path / "report.json"
    arguments = ["compare_backbones.py", "ResNet width 4", *options.split(), "--json", str(report)]
    monkeypatch.setattr(sys, "argv", arguments)
    recipe.main()
    (story,) = json.loads(report.read_text())["networks"]
    assert (story["network"], story["seed"]) == ("ResNet width 4", 0)
    assert story["config"] == dataclasses.asdict(dataclasses.replace(SMALL, resnet_width=4))
    assert [point["step"] for point in story["curve"]] == [0, 2, 4, 6, 8]
    assert "| ResNet width 4 |    0 |" in capsys.readouterr().out
    monkeypatch.setattr(recipe.subprocess, "run", lambda *_: pytest.fail("it is there already"))
    recipe.main()
    monkeypatch.setattr(sys, "argv", ["compare_backbones.py", "huge", *options.split()])
    with pytest.raises(InputError, match="no variant 'huge'; there are small,"):
        recipe.main()
    monkeypatch.setattr(recipe.subprocess, "run", lambda *_: subprocess.CompletedProcess([], 2))
    monkeypatch.setattr(sys, "argv", [*arguments, "--seed", "1"])  # what is there is of other settings
    with pytest.raises(InputError, match="pretraining of 'ResNet width 4' failed"):
        recipe.main()
