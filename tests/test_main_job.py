"""The main job called from Python: the same as the recipes, and worth it."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, adapt_room, load_backbone, load_room
from haa_peft.adapters.methods import MethodSettings
from haa_peft.describing import readme
from haa_peft.errors import InputError
from haa_peft.files import nan_to_null
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName
from haa_peft.training.loop import Start
from haa_peft.training.settings import TrainingSettings
from tests.conftest import decaying_noise

RECIPES = Path(__file__).parents[1] / "recipes"
SHORT = TrainingSettings(max_steps=3, k=4, validate_every=1, lr=0.02, caution=0.0)


@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_the_recipe_gives_what_the_function_gives(
    method, room_folder, tiny_backbone, tiny_backbone_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = ["--room", room_folder, "--backbone", tiny_backbone_file, "--json", "report.json", "--k", 4, "--lr", 0.02]
    options += ["--max-steps", 3, "--validate-every", 1, "--caution", 0, "--name", "studio/base"]
    recipe = RECIPES / f"finetune_{method}.py"
    monkeypatch.setattr(sys, "argv", [str(recipe), *map(str, options)])
    runpy.run_path(str(recipe), run_name="__main__")
    assert "studio/base: 12 measurements train, 4 validate, 4 test" in capsys.readouterr().out
    adapted = adapt_room(
        load_room(room_folder), MethodSettings(method), SHORT, backbone=tiny_backbone, name="studio/base"
    )
    assert capsys.readouterr().out == ""
    stored = read_pack(Path("adapters"), AdapterName.parse("studio/base"))
    assert stored.config == adapted.adaptation.config
    assert stored.tensors.keys() == adapted.adaptation.tensors.keys()
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in adapted.adaptation.tensors.items())
    report = json.loads(Path("report.json").read_text())
    for row in (*report["rows"], *adapted.report["rows"]):
        row.pop("seconds", None)
    assert {key: report[key] for key in adapted.report} == json.loads(json.dumps(nan_to_null(adapted.report)))
    assert adapted.report["verdict"]["line"] == stored.card["evaluation"]["verdict"]["line"]
    positions = adapted.room.positions[adapted.room.splits["test"]]
    written = adapted.write(tmp_path / "other")
    assert written == tmp_path / "other" / "studio" / "base"
    first, second = (
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone).predict(positions)
        for store in (tmp_path / "adapters", tmp_path / "other")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_beginnings_by_name_and_as_tensors_are_the_same(room_folder, tiny_backbone, tmp_path):
    room, method = load_room(room_folder), MethodSettings(rank=1)
    below = adapt_room(room, method, SHORT, backbone=tiny_backbone, test_split=None)
    assert below.report["rows"] == []
    below.write(tmp_path)
    itself = Start("below", *below.adapter)
    for role in ("start", "on_top_of"):
        found = [
            adapt_room(room, method, SHORT, backbone=tiny_backbone, name="studio/base@next", store=tmp_path,
                       **{role: given})
            for given in ("studio/base", itself)
        ]  # fmt: skip
        for name, tensor in found[0].adapter[1].items():
            torch.testing.assert_close(found[1].adapter[1][name], tensor, rtol=0, atol=0)
        errors = [[row["edt_s"] for row in one.report["rows"]] for one in found]
        assert errors[0] == errors[1]
    # what lies on a stored adapter is stored by itself, what lies on mere tensors with them
    assert found[0].pack.parent == ("studio/base", below.pack.adapter_digest())
    assert found[1].pack.parent is None
    predicted = []
    for one in found:
        one.write(tmp_path)
        predictor = RoomPredictor.load("studio/base@next", store=tmp_path, backbone=tiny_backbone)
        predicted.append(predictor.predict(room.positions[room.splits["test"]]))
    np.testing.assert_allclose(predicted[1], predicted[0], rtol=1e-4, atol=1e-6)


def test_k_is_the_most_that_the_room_has(room_folder, tiny_backbone):
    room = load_room(room_folder).with_shots(3)
    settings = dataclasses.replace(SHORT, max_steps=1, k=8)
    adapted = adapt_room(room, MethodSettings("bias"), settings, backbone=tiny_backbone)
    assert adapted.adaptation.training.k == adapted.report["k"] == 2
    with pytest.raises(InputError, match=r"3 training measurements are fewer than K \+ 1 = 9"):
        adapt_room(room, MethodSettings("bias"), settings, backbone=tiny_backbone, k=8)


@pytest.fixture
def beaming_room(tmp_path):
    """A room whose direct sound falls by 15 dB a doubling of distance, as no simulated room's does; 40 positions."""
    rng = np.random.default_rng(3)
    receiver = np.array([2.0, 1.5, 1.2])
    positions = rng.uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (40, 3))
    distances = np.linalg.norm(positions - receiver, axis=1)
    rirs = 0.6 * decaying_noise(40, 9600, 22_050, 0.5, distances)
    onsets = np.round(distances / 343 * 22_050).astype(int)
    rirs[np.arange(40), onsets] = 1.5 / distances**2.5
    folder = tmp_path / "hall" / "base"
    folder.mkdir(parents=True)
    np.save(folder / "RIRs.npy", rirs)
    np.save(folder / "xyzs.npy", positions)
    about = {"sample_rate": 22_050, "receiver_xyz": receiver.tolist(), "room_size": [6.0, 4.0, 2.7]}
    (folder / "room.json").write_text(json.dumps(about))
    return load_room(folder)


def test_an_adapter_beats_the_frozen_backbone(beaming_room):
    """LoRA with the defaults, though 30 steps alone: errors of EDT and C50 at test positions a quarter lower."""
    adapted = adapt_room(beaming_room, MethodSettings(), TrainingSettings(max_steps=30), backbone=load_backbone())
    against = adapted.report["verdict"]["against"]["backbone"]
    assert adapted.report["positions"] == 14
    for metric in ("edt_s", "c50_db"):
        assert against[metric]["ratio"] < 0.75
        assert against[metric]["result"] == "better"


def test_faults_of_measurements_stop_and_notes_are_kept(room_folder, tiny_backbone, tmp_path):
    rirs = np.load(room_folder / "RIRs.npy")
    rirs[3] *= -1
    np.save(room_folder / "RIRs.npy", np.pad(rirs, ((0, 0), (1098, 0))))
    room = load_room(room_folder)
    given = room, MethodSettings("bias"), TrainingSettings(k=2, max_steps=1, validate_every=1)
    with pytest.raises(InputError, match=r"studio/base: latency: sound comes 22\.\d+ ms .* --allow-faults"):
        adapt_room(*given, backbone=tiny_backbone)
    adapted = adapt_room(*given, backbone=tiny_backbone, allow_faults=True, test_split=None)
    assert [one["kind"] for one in adapted.card["room"]["findings"]] == ["latency", "polarity"]
    page = readme({**adapted.card, "name": "studio/base@bias"})
    assert "Error on the measurements: sound comes 22." in page
    assert "Note on the measurements: RIR 3: direct sound is the others' with the other sign" in page
