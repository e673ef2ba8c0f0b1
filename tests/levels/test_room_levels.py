"""Levels of a room: what they are blended of, what is stored of them, and what is served with them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, adapt_room, load_room
from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import InputError
from haa_peft.evaluation.baselines import energy_interpolation
from haa_peft.inference.packs import levels_of
from haa_peft.levels import room as room_module
from haa_peft.levels.cells import cell_levels
from haa_peft.levels.figure import draw_directivity
from haa_peft.levels.fitting import fit_levels, folds
from haa_peft.levels.room import PRIOR_SHARES, PRIOR_WEIGHT, RoomLevels, average, best_shares, distance_outside
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName
from haa_peft.training.settings import TrainingSettings

SHORT = TrainingSettings(max_steps=2, k=4, validate_every=1, lr=0.02, caution=0.0)


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def levels(room, tiny_backbone):
    return fit_levels(tiny_backbone, room, 4)


def test_served_rirs_have_the_levels_that_are_told(room, levels, tiny_backbone):
    targets = room.positions[room.splits["test"]] - room.receiver
    distance = np.linalg.norm(targets, axis=1)
    tensors = RoomTensors.of_room(room)
    plain = predict_rirs(tiny_backbone, tensors, targets, 4, 0)
    served = predict_rirs(tiny_backbone, tensors, targets, 4, 0, levels=levels)
    wanted = levels.at(targets, cell_levels(plain, distance))
    found, before = cell_levels(served, distance), cell_levels(plain, distance)
    heard = np.abs(wanted - before) < 20
    heard[:, 0] = False  # its gain runs into the next span's
    late = np.s_[:, 4:, 2:]
    assert np.abs(found - wanted)[late][heard[late]].max() < 1.0
    assert np.abs(before - wanted)[late][heard[late]].max() > 2.0


def test_the_average_is_that_of_energy_interpolation():
    """At one distance, where alignment moves nothing, levels of the untrained average are the same."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((7, 3))
    places = 2 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    time = np.arange(9600) / 22_050
    envelope = np.where(time > 2 / 343, np.exp(-15 * time), 0)
    rirs = (rng.standard_normal((5, 9600)) * envelope * 0.1).astype(np.float32)
    distance = np.full(2, 2.0)
    chosen = np.tile(np.arange(5), (2, 1))
    interpolated = energy_interpolation(rirs, places[:5], chosen, places[5:])
    told = average(places[5:], places[:5], cell_levels(rirs, np.full(5, 2.0)))
    assert np.abs(told - cell_levels(interpolated, distance))[:, 4:, 2:].mean() < 0.4


def test_outside_the_measurements_is_measured_in_their_spacing():
    corners = np.array(list(itertools.product((0.0, 2.0), repeat=3)))
    asked = np.array([[1.0, 1.0, 1.0], [4.0, 1.0, 1.0], [2.0, 2.0, 2.0], [5.0, 6.0, 2.0]])
    assert distance_outside(asked, corners) == pytest.approx([0, 1, 0, 2.5], abs=1e-3)
    twice = np.concatenate([corners, corners + 0.001])
    assert distance_outside(asked, twice) == pytest.approx([0, 1, 0, 2.5], abs=0.01)
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert distance_outside(np.array([[1.5, 0.5, 0]]), line) == pytest.approx([0.5], abs=1e-3)


def test_shares_are_the_best_of_all():
    """Against a search over all shares in steps of a hundredth."""
    rng = np.random.default_rng(3)
    errors = rng.standard_normal((3, 12, 4, 7)) * np.array([1.0, 2.0, 1.5])[:, None, None, None]
    errors[2] += 0.5 * errors[0]
    found = best_shares(errors)
    rows = errors.reshape(3, -1)
    square = rows @ rows.T / rows.shape[1]
    square *= 12 * 3 / np.trace(square)

    def cost(shares):
        return shares @ square @ shares + PRIOR_WEIGHT * ((shares - PRIOR_SHARES) ** 2).sum()

    grid = [np.array([a, b, 100 - a - b]) / 100 for a in range(101) for b in range(101 - a)]
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - min(grid, key=cost)).max() < 0.02


def test_every_measurement_is_left_out_once():
    positions = np.random.default_rng(0).uniform(0, 4, (13, 3))
    assert (np.sum(folds(positions), axis=0) == 1).all()
    assert len(folds(positions)) == 6
    assert folds(positions[:1]) == []


def test_far_outside_nothing_is_left_of_the_process(levels, monkeypatch):
    far = np.array([[300.0, 0.0, 0.0]])
    predicted = np.full((1, 8, 7), -40.0)
    with monkeypatch.context() as patch:
        patch.setattr(room_module, "is_hidden", lambda *_: np.array([False]))
        told = levels.at(far, predicted)
        averaged = levels.candidates(far)[1]
    assert np.allclose(told, (averaged + predicted) / 2)


def test_what_is_stored_is_what_is_served(room, tiny_backbone, tmp_path):
    adapted = adapt_room(room, MethodSettings(), SHORT, backbone=tiny_backbone, name="studio/base")
    adapted.write(tmp_path)
    predictor = RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone)
    positions = room.positions[room.splits["test"]]
    served = predictor.predict(positions)
    pack = read_pack(tmp_path, AdapterName.parse("studio/base"))
    assert sum(tensor.numel() for tensor in pack.levels.values()) < 150
    stored = levels_of(pack)
    assert np.allclose(stored.shares, adapted.levels.shares)
    targets = positions - room.receiver
    predicted = np.random.default_rng(0).uniform(-60, 0, (len(targets), 8, 7))
    assert np.allclose(stored.at(targets, predicted), adapted.levels.at(targets, predicted), atol=1e-6)
    without = dataclasses.replace(pack, levels=None, name=AdapterName("studio", "plain"))
    write_pack(tmp_path, dataclasses.replace(without, card={**pack.card, "name": "studio/plain"}))
    plain = RoomPredictor.load("studio/plain", store=tmp_path, backbone=tiny_backbone).predict(positions)
    assert np.abs(stored.correct(plain, targets) - served).max() < 1e-4 * np.abs(served).max()
    together = predictor.predict_many([("studio/base", positions), ("studio/plain", positions)])
    assert np.abs(together[0] - served).max() < 1e-3 * np.abs(served).max()
    assert np.abs(together[1] - plain).max() < 1e-3 * np.abs(plain).max()


def test_without_levels_there_are_none(room, tiny_backbone, tmp_path):
    method = MethodSettings(levels="none")
    adapted = adapt_room(room, method, SHORT, backbone=tiny_backbone, name="studio/base")
    assert adapted.levels is None
    assert [row["predictor"] for row in adapted.report["rows"]].count("levels alone") == 0
    adapted.write(tmp_path)
    assert not (tmp_path / "studio" / "base" / "levels.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("axis", torch.zeros(8, 2)),
        ("strength", torch.full((8,), torch.nan)),
        ("logs", torch.full((8, 7), 1e9)),
        ("shares", None),
    ],
)
def test_damaged_levels_are_refused(levels, room, name, tensor):
    tensors = {**levels.tensors(), name: tensor}
    tensors = {key: value for key, value in tensors.items() if value is not None}
    train = room.splits["train"]
    measured = room.rirs[train], room.positions[train] - room.receiver, room.receiver, room.geometry
    with pytest.raises(InputError, match=rf"studio/base has {name} of .*; restore or retrain the adapter"):
        RoomLevels.of_tensors(tensors, *measured, "studio/base")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_measurements_are_enough(room, tiny_backbone, count):
    few = room.with_shots(count)
    found = fit_levels(tiny_backbone, few, 1)
    targets = room.positions[room.splits["test"]] - room.receiver
    assert np.isfinite(found.at(targets, np.zeros((len(targets), 8, 7)))).all()


def test_the_device_is_drawn(levels, tmp_path):
    draw_directivity(levels, "studio/base", tmp_path / "device.png")
    assert (tmp_path / "device.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="cannot be written"):
        draw_directivity(levels, "studio/base", tmp_path / "none" / "device.png")


def test_a_pack_of_before_is_what_it_was(room, tiny_backbone, tmp_path):
    """Without levels, and with a card of schema 1, which has no digest."""
    method = MethodSettings(levels="none")
    adapt_room(room, method, SHORT, backbone=tiny_backbone, name="studio/base").write(tmp_path)
    positions = room.positions[room.splits["test"]]
    before = RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone).predict(positions)
    path = tmp_path / "studio" / "base" / "card.json"
    card = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
    path.write_text(json.dumps({**card, "schema": 1}))
    after = RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone).predict(positions)
    np.testing.assert_array_equal(after, before)
    with pytest.raises(InputError, match=r"its digest \(none, its card is older\) is not among those allowed"):
        RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone, allowed=["0" * 64])
    with pytest.raises(InputError, match=r"its digest \(none, its card is older\) is not among those allowed"):
        RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone, allowed=["0" * 64])
