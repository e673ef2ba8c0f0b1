import dataclasses
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from haa_peft import load_room
from haa_peft.adaptation.methods import METHODS, MethodSettings
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError
from haa_peft.training import adapt as adapt_module
from haa_peft.training.adapt import TrainingSettings, adapt
from haa_peft.training.objective import RoomObjective, draw_references, nearest_references
from tests.conftest import TINY

SHORT = TrainingSettings(max_steps=6, k=4, validate_every=2, warmup=1, lr=1e-2)


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_gives_the_base_back(method, room, tiny_backbone, accelerator, tmp_path):
    before = fingerprint(tiny_backbone)
    settings = TrainingSettings(max_steps=30, k=4, validate_every=5, warmup=2, lr=1e-2)
    adaptation = adapt(tiny_backbone, room, MethodSettings(method), settings, accelerator, tmp_path)
    assert fingerprint(tiny_backbone) == before
    losses = dict(adaptation.validation)
    assert losses[adaptation.best_step] == min(losses.values())
    assert adaptation.best_step > 0
    assert min(losses.values()) < losses[0]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, adaptation.steps + 1))
    assert np.mean([line["loss"] for line in lines[-5:]]) < np.mean([line["loss"] for line in lines[:5]])


def test_the_same_seed_gives_the_same_adapter(room, tiny_backbone, accelerator, tmp_path):
    runs = [adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path / str(i)) for i in range(2)]
    assert all(torch.equal(runs[0].tensors[name], runs[1].tensors[name]) for name in runs[0].tensors)


@pytest.mark.parametrize("align_before_encoding", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_broken_run_resumes_to_the_same_adapter(
    method, align_before_encoding, room, accelerator, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    tiny_backbone = XRIR(dataclasses.replace(TINY, align_before_encoding=align_before_encoding)).eval()
    tiny_backbone.requires_grad_(False)
    whole = adapt(tiny_backbone, room, MethodSettings(method), SHORT, accelerator, tmp_path / "whole")
    real, calls = adapt_module.draw_references, []

    def interrupted(shots, k, seed, step):
        calls.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return real(shots, k, seed, step)

    monkeypatch.setattr(adapt_module, "draw_references", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny_backbone, room, MethodSettings(method), SHORT, accelerator, tmp_path / "broken")
    monkeypatch.setattr(adapt_module, "draw_references", real)
    resumed = adapt(tiny_backbone, room, MethodSettings(method), SHORT, accelerator, tmp_path / "broken", resume=True)
    assert resumed.validation == whole.validation
    logged = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    # adapter and optimiser alone: well below the backbone for LoRA
    if method == "lora":
        size = (tmp_path / "broken" / "checkpoint.pt").stat().st_size
        trained = sum(t.numel() for t in whole.tensors.values())
        assert size < 4 * 4 * trained + 1500 * len(whole.tensors)  # four states; names and places of each tensor


def test_resume_needs_the_same_run(room, tiny_backbone, accelerator, tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path, resume=True)
    adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path)
    with pytest.raises(InputError, match="the checkpoint's rank is 4 but this run's is 2; resume with the same"):
        adapt(tiny_backbone, room, MethodSettings(rank=2), SHORT, accelerator, tmp_path, resume=True)
    other = dataclasses.replace(room, rirs=room.rirs[::-1].copy())
    with pytest.raises(InputError, match="the checkpoint's room is"):
        adapt(tiny_backbone, other, MethodSettings(), SHORT, accelerator, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path, resume=True)


def test_a_loss_that_is_not_a_number_stops_the_run(room, tiny_backbone, accelerator, tmp_path):
    before = fingerprint(tiny_backbone)
    blind = dataclasses.replace(room, receiver=np.array([np.nan, 0, 0]))
    with pytest.raises(InputError, match="the backbone's loss in this room is nan"):
        adapt(tiny_backbone, blind, MethodSettings(), SHORT, accelerator, tmp_path)
    wild = dataclasses.replace(SHORT, weight_decay=99.0, lr=0.99)
    with pytest.raises(InputError, match="the loss is .* after which nothing can be learned"):
        adapt(tiny_backbone, room, MethodSettings("lora", alpha=1e38), wild, accelerator, tmp_path)
    assert fingerprint(tiny_backbone) == before


def test_early_stopping_keeps_the_best(room, tiny_backbone, accelerator, tmp_path):
    # a rate so large that training only harms
    settings = TrainingSettings(max_steps=40, k=4, validate_every=1, patience=3, warmup=0, lr=0.9)
    adaptation = adapt(tiny_backbone, room, MethodSettings("full"), settings, accelerator, tmp_path)
    assert adaptation.steps == adaptation.best_step + 3
    assert min(loss for _, loss in adaptation.validation) == dict(adaptation.validation)[adaptation.best_step]


def test_references_are_others_and_drawn_anew():
    first, second = draw_references(12, 8, 0, 0), draw_references(12, 8, 0, 1)
    assert first.shape == (12, 8)
    for row, chosen in enumerate(first):
        assert row not in chosen
        assert len(set(chosen)) == 8
    assert (first != second).any()
    np.testing.assert_array_equal(first, draw_references(12, 8, 0, 0))


def test_nearest_references():
    line = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [5.0, 0, 0]])
    assert nearest_references(np.array([[1.9, 0, 0], [6.0, 0, 0]]), line, 2).tolist() == [[2, 1], [3, 2]]


def test_without_validation_positions_a_measurement_is_predicted_from_the_others(room, tiny_backbone):
    alone = dataclasses.replace(room, splits={**room.splits, "valid": np.array([], dtype=int)})
    objective = RoomObjective(tiny_backbone, alone).eval()
    rows = np.arange(12)
    nearest = nearest_references(objective.positions.numpy(), objective.positions.numpy(), 5)
    assert (nearest[:, 0] == rows).all()
    expected = objective(torch.from_numpy(rows), torch.from_numpy(nearest[:, 1:])).mean()
    assert objective.validation_loss(4) == pytest.approx(float(expected), rel=1e-5)


def test_too_few_measurements(room, tiny_backbone, accelerator, tmp_path):
    with pytest.raises(InputError, match=r"8 training measurements are fewer than K \+ 1 = 9"):
        adapt(tiny_backbone, room.with_shots(8), MethodSettings(), TrainingSettings(k=8), accelerator, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "--max-steps is 0 but must be at least 1"),
        ({"k": 0}, "--k is 0"),
        ({"weight_decay": float("nan")}, "--weight-decay is nan"),
        ({"seed": 2**32}, "--seed is 4294967296 but must be from 0"),
        ({"lr": -1.0}, "--lr is -1.0 but must be between 0 and 1"),
        ({"patience": 0}, "--patience is 0"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**values)
