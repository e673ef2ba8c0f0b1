import dataclasses
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from haa_peft import load_room
from haa_peft import sensitivity as sensitivity_module
from haa_peft.acoustics.spectrogram import log_magnitude
from haa_peft.adapters.layers import layer_of
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.adapters.settings import METHODS
from haa_peft.augmentation import settings as augmentation_module
from haa_peft.augmentation.settings import USUAL as USUAL_AUGMENTATION
from haa_peft.augmentation.settings import Augmentation, vary
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import nearest_references
from haa_peft.model.xrir import XRIR
from haa_peft.training import objective as objective_module
from haa_peft.training.adapt import Start, adapt
from haa_peft.training.folds import folds_of
from haa_peft.training.objective import RoomObjective, draw_references
from haa_peft.training.progress import Average, is_plateau
from haa_peft.training.settings import TrainingSettings
from haa_peft.training.statistics import refresh_statistics
from tests.conftest import TINY
from tests.training.anew import AnewObjective

LEARNED = [method for method in METHODS if method != "statistics"]
SHORT = TrainingSettings(max_steps=6, k=4, validate_every=2, warmup=1, lr=1e-2, caution=0.0)


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.parametrize("method", LEARNED)
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


RESUMED = [(MethodSettings(method), False) for method in LEARNED]
RESUMED += [(MethodSettings(method), True) for method in ("lora", "norm", "full")]
RESUMED += [(MethodSettings("lora", dropout=0.3), False)]
RESUMED = [(*pair, Augmentation()) for pair in RESUMED]
VARIED = Augmentation.parse(USUAL_AUGMENTATION)
RESUMED += [(MethodSettings("lora", dropout=0.3), False, VARIED)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "published", "augment"), RESUMED, ids=str)
def test_a_broken_run_resumes_to_the_same_adapter(method, published, augment, room, accelerator, tmp_path, monkeypatch):
    short = dataclasses.replace(SHORT, augment=augment)
    torch.manual_seed(0)
    changes = {"align_before_encoding": True, "normalisation": "batch"} if published else {}
    tiny_backbone = XRIR(dataclasses.replace(TINY, **changes)).eval().requires_grad_(False)
    torch.nn.init.normal_(tiny_backbone.energy_blend.departure.weight, std=0.2)  # DoRA divides by its norm
    whole = adapt(tiny_backbone, room, method, short, accelerator, tmp_path / "whole")
    real = objective_module.draw_references

    def interrupted(shots, k, seed, step, room):
        if step == 5:
            raise KeyboardInterrupt
        return real(shots, k, seed, step, room)

    monkeypatch.setattr(objective_module, "draw_references", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny_backbone, room, method, short, accelerator, tmp_path / "broken")
    monkeypatch.setattr(objective_module, "draw_references", real)
    resumed = adapt(tiny_backbone, room, method, short, accelerator, tmp_path / "broken", resume=True)
    assert resumed.validation == whole.validation
    logged = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    # adapter and optimiser alone: well below the backbone for LoRA
    if method == MethodSettings():
        size = (tmp_path / "broken" / "checkpoint.pt").stat().st_size
        trained = sum(t.numel() for t in whole.tensors.values())
        assert size < 5 * 4 * trained + 2500 * len(whole.tensors)  # five states; names and places of each tensor


def test_resume_needs_the_same_run(room, tiny_backbone, accelerator, tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path, resume=True)
    adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path)
    with pytest.raises(InputError, match="the checkpoint's rank is 4 but this run's is 2; resume with the same"):
        adapt(tiny_backbone, room, MethodSettings(rank=2), SHORT, accelerator, tmp_path, resume=True)
    turned = dataclasses.replace(SHORT, augment=Augmentation(rotation=90.0))
    with pytest.raises(InputError, match="the checkpoint's augment is None but this run's is {'rotation': 90.0}"):
        adapt(tiny_backbone, room, MethodSettings(), turned, accelerator, tmp_path, resume=True)
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


def without_positions(room):
    return dataclasses.replace(room, splits={**room.splits, "valid": np.array([], dtype=int)})


def test_every_measurement_is_left_out_once(room):
    folds = [fold for (fold,) in folds_of([room])]
    train = room.splits["train"]
    assert [fold.splits["valid"].tolist() for fold in folds] == [[i] for i in train]
    for fold in folds:
        assert sorted([*fold.splits["train"], *fold.splits["valid"]]) == sorted(train)
        assert fold.splits["test"].tolist() == room.splits["test"].tolist()


@pytest.mark.slow
def test_leave_one_out_validation(room, tiny_backbone, accelerator, tmp_path, monkeypatch):
    """Against folds trained one by one; and a broken run goes on to the same adapter."""
    alone = without_positions(room.with_shots(6))
    found = adapt(tiny_backbone, alone, MethodSettings(), SHORT, accelerator, tmp_path / "whole")
    single = dataclasses.replace(SHORT, patience=SHORT.max_steps)
    curves = []
    for (fold,) in folds_of([alone]):
        curves.append(adapt(tiny_backbone, fold, MethodSettings(), single, accelerator, tmp_path / "fold").validation)
    mean = [(step, np.mean([dict(curve)[step] for curve in curves])) for step, _ in curves[0]]
    assert dict(found.validation) == pytest.approx(dict(mean))
    assert found.best_step == found.steps == min(mean, key=lambda pair: pair[1])[0]
    assert found.best_step > 0
    said = found.acceptance
    assert (said.start_loss, said.best_loss) == pytest.approx((mean[0][1], dict(mean)[found.best_step]))
    assert (said.best_step, said.threshold, said.accepted) == (found.best_step, 0.0, True)
    # the last run is as long, on all measurements: its weights are those that another run passes at that step
    judged = dataclasses.replace(alone, splits={**alone.splits, "valid": room.splits["valid"]})
    passed = []
    real_loss = objective_module.RoomsObjective.validation_losses

    def seen(objective, k):
        parameters = objective.each[0].backbone.named_parameters()
        passed.append({name: parameter.detach().clone() for name, parameter in parameters if "lora_" in name})
        return real_loss(objective, k)

    monkeypatch.setattr(objective_module.RoomsObjective, "validation_losses", seen)
    every = dataclasses.replace(SHORT, validate_every=found.best_step, patience=99)
    adapt(tiny_backbone, judged, MethodSettings(), every, accelerator, tmp_path / "judged")
    monkeypatch.undo()
    assert len(passed[1]) == len(found.tensors)
    for name, tensor in found.tensors.items():
        ours = passed[1][name.removeprefix("base_model.model.").replace(".weight", ".default.weight")]
        torch.testing.assert_close(tensor, ours, rtol=1e-5, atol=1e-7)

    real_draw, calls, again = objective_module.draw_references, [], []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3 * SHORT.max_steps + 2 and not again:
            again.append(True)
            raise KeyboardInterrupt
        return real_draw(*given)

    monkeypatch.setattr(objective_module, "draw_references", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt(tiny_backbone, alone, MethodSettings(), SHORT, accelerator, tmp_path / "broken")
    calls.clear()
    resumed = adapt(tiny_backbone, alone, MethodSettings(), SHORT, accelerator, tmp_path / "broken", resume=True)
    assert len(calls) == 3 * SHORT.max_steps + found.best_step  # three folds were done
    assert resumed.validation == found.validation
    assert all(torch.equal(resumed.tensors[name], found.tensors[name]) for name in found.tensors)


@pytest.mark.slow
def test_leave_one_out_undoes_a_gain_by_chance_too(room, tiny_backbone, accelerator, tmp_path):
    alone, careful = without_positions(room.with_shots(6)), dataclasses.replace(SHORT, caution=100.0)
    undone = adapt(tiny_backbone, alone, MethodSettings(), careful, accelerator, tmp_path)
    assert (undone.steps, undone.best_step, undone.unchanged) == (0, 0, True)
    assert undone.acceptance.gain > 0
    assert dict(undone.validation)[undone.acceptance.best_step] == undone.acceptance.best_loss


def test_positions_that_are_not_there(room, tiny_backbone, accelerator, tmp_path):
    settings = dataclasses.replace(SHORT, validation="positions")
    with pytest.raises(InputError, match="has no validation positions; give --validation leave-one-out"):
        adapt(tiny_backbone, without_positions(room), MethodSettings(), settings, accelerator, tmp_path)


def test_a_plateau_stops_too():
    falling = [1.0, 0.9, 0.8999, 0.8998, 0.8997]
    assert not is_plateau(falling[:4], patience=3, min_delta=1e-3)
    assert is_plateau(falling, patience=3, min_delta=1e-3)
    assert not is_plateau(falling, patience=3, min_delta=0.0)
    assert not is_plateau([1.0, 1.2, 1.1, 0.5], patience=3, min_delta=1e-3)


def test_a_gain_by_chance_is_undone(room, tiny_backbone, accelerator, tmp_path):
    found = adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path)
    assert found.best_step > 0
    careful = dataclasses.replace(SHORT, caution=50.0)
    undone = adapt(tiny_backbone, room, MethodSettings(), careful, accelerator, tmp_path)
    assert undone.validation == found.validation
    assert undone.best_step == 0
    assert (undone.unchanged, found.unchanged) == (True, False)
    said = undone.acceptance
    assert (said.start_loss, said.best_loss) == (found.validation[0][1], dict(found.validation)[found.best_step])
    assert (said.best_step, found.acceptance.best_step) == (found.best_step, found.best_step)
    assert all(not tensor.any() for name, tensor in undone.tensors.items() if "lora_B" in name)


def test_the_average_of_steps(tiny_backbone):
    """Against the closed form of its weights."""
    adapter = attach(tiny_backbone, MethodSettings("bias"), 0)
    average, values = Average(adapter, 0.9), [adapter.parameters()[0].detach().clone()]
    for step in range(1, 31):
        adapter.load({name: tensor + 0.01 * step for name, tensor in adapter.tensors().items()})
        average.update(step)
        values.append(adapter.parameters()[0].detach().clone())
    weights = np.array([1.0])
    for step in range(1, 31):
        decay = min(0.9, step / (step + 2))
        weights = np.append(decay * weights, 1 - decay)
    expected = sum(float(weight) * value for weight, value in zip(weights, values, strict=True))
    with average.applied():
        torch.testing.assert_close(adapter.parameters()[0].detach(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(adapter.parameters()[0].detach(), values[-1])
    adapter.detach()


def test_a_start_is_where_another_run_ended(room, tiny_backbone, accelerator, tmp_path):
    first = adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path / "first")
    start = Start("studio/base", first.config, first.tensors)
    second = adapt(tiny_backbone, room, MethodSettings(), SHORT, accelerator, tmp_path / "second", start=start)
    assert second.validation[0][1] == pytest.approx(dict(first.validation)[first.best_step], rel=1e-6)
    assert second.started_from == "studio/base"
    for other in (
        MethodSettings(rank=2),
        MethodSettings(convolutions=True),
        MethodSettings(freeze="early:2"),
        MethodSettings("bias"),
    ):
        with pytest.raises(InputError, match="training cannot start from studio/base: its .* but this run's is"):
            adapt(tiny_backbone, room, other, SHORT, accelerator, tmp_path / "third", start=start)


def test_several_rooms_together(room, tiny_backbone):
    other = dataclasses.replace(room, rirs=room.rirs[::-1].copy()).with_shots(7)
    both = objective_module.RoomsObjective(tiny_backbone, [room, other]).eval()
    draws = both.draw(8, 0, 3, 0, 1)
    assert [(i, variant, len(targets), references.shape[1]) for i, variant, targets, references in draws] == [
        (0, 0, 12, 8),
        (1, 0, 7, 6),
    ]
    alone = [RoomObjective(tiny_backbone, one).eval() for one in (room, other)]
    expected = [alone[i](targets, references) for i, _, targets, references in draws]
    torch.testing.assert_close(both(draws), torch.cat(expected))
    expected = torch.cat([objective.validation_losses(8) for objective in alone])
    assert both.validation_losses(8) == pytest.approx(expected.tolist())
    parts = [both.draw(8, 0, 3, rank, 2) for rank in range(2)]
    shared = [(i, int(t)) for part in parts for i, _, targets, _ in part for t in targets]
    assert sorted(shared) == [(0, t) for t in range(12)] + [(1, t) for t in range(7)]
    for part in parts:
        for i, _, targets, references in part:
            assert torch.equal(references, draws[i][3][targets])


def test_every_other_step_is_trained_in_a_variant(room, tiny_backbone, monkeypatch):
    """Losses against those of the varied rooms by the network's plain computation."""
    monkeypatch.setattr(augmentation_module, "VARIANTS", 3)
    rooms = [room, dataclasses.replace(room, rirs=room.rirs[::-1].copy())]
    both = objective_module.RoomsObjective(tiny_backbone, rooms, augment=VARIED).eval()
    numbers = np.array([[variant for _, variant, *_ in both.draw(4, 3, step, 0, 1)] for step in range(200)])
    assert 0.4 < (numbers > 0).mean() < 0.6
    assert set(numbers.flatten()) == set(range(augmentation_module.VARIANTS + 1))
    assert (numbers[:, 0] != numbers[:, 1]).any()
    step = int(np.flatnonzero((numbers > 0).all(axis=1))[0])
    draws = both.draw(4, 3, step, 0, 1)
    expected = []
    for i, variant, targets, references in draws:
        varied = vary(rooms[i], VARIED, (3, i, variant))
        expected.append(AnewObjective(tiny_backbone, varied).eval()(targets, references))
    torch.testing.assert_close(both(draws), torch.cat(expected), rtol=1e-4, atol=1e-5)
    same = [RoomObjective(tiny_backbone, rooms[i]).eval()(t, r) for i, _, t, r in draws]
    assert (both(draws) - torch.cat(same)).abs().max() > 1e-3
    # another process has the same variants, another step or seed others; validation has none
    assert [d[1] for d in both.draw(4, 3, step, 1, 2)] == [d[1] for d in draws]
    assert (numbers != [[d[1] for d in both.draw(4, 4, step, 0, 1)] for step in range(200)]).any()
    plain = objective_module.RoomsObjective(tiny_backbone, rooms).eval()
    assert both.validation_losses(4) == plain.validation_losses(4)


def test_settings_without_augmentation_are_what_they_were():
    assert "augment" not in SHORT.describe()
    assert SHORT.describe() == {k: v for k, v in dataclasses.asdict(SHORT).items() if k != "augment"}
    on = dataclasses.replace(SHORT, augment=Augmentation(mirror=True, positions=0.1))
    assert on.describe() == {**SHORT.describe(), "augment": {"mirror": True, "positions": 0.1}}


def test_statistics_are_the_rooms(room, accelerator, tmp_path):
    """The first norm's against a convolution computed here; the second's follows from it."""
    torch.manual_seed(0)
    network = XRIR(dataclasses.replace(TINY, normalisation="batch")).eval().requires_grad_(False)
    before = fingerprint(network)
    found = adapt(network, room, MethodSettings("statistics"), SHORT, accelerator, tmp_path)
    assert fingerprint(network) == before
    assert [step for step, _ in found.validation] == [0, 1]
    assert found.steps == 1
    adapter = attach(network, MethodSettings("statistics"), 0)
    objective = RoomObjective(network, room)
    refresh_statistics([objective])
    norm = network.audio_enc.cnn.bn1
    heard = torch.nn.functional.avg_pool1d(log_magnitude(objective.rirs), TINY.audio_pooling)
    out = torch.nn.functional.conv2d(heard[:, None], network.audio_enc.cnn.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(norm.running_mean, out.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, out.var(dim=(0, 2, 3)), rtol=1e-3, atol=1e-5)
    if found.best_step:
        torch.testing.assert_close(adapter.tensors(), found.tensors)
    adapter.detach()
    assert fingerprint(network) == before


@pytest.mark.slow
def test_auto_freezing_measures_both_domains(room, tiny_backbone, accelerator, tmp_path, monkeypatch):
    """Shares against squared gradients of the network's plain forward pass."""
    other = dataclasses.replace(room, rirs=room.rirs[:, ::-1].copy())
    monkeypatch.setattr("haa_peft.simulation.draw_rooms", lambda count: [other])
    settings = dataclasses.replace(SHORT, audible_decay=0.0)
    found = sensitivity_module.measure_sensitivity(tiny_backbone, [room], settings)
    for domain in ("room", "simulation"):
        assert sum(getattr(one, domain) for one in found) == pytest.approx(1)
    objective = AnewObjective(tiny_backbone, room).eval()
    adapter = attach(tiny_backbone, MethodSettings("full"), 0)
    expected = dict.fromkeys((one.layer for one in found), 0.0)
    for draw in range(sensitivity_module.DRAWS):
        references = torch.from_numpy(draw_references(12, SHORT.k, 0, draw))
        for i in range(12):
            tiny_backbone.zero_grad()
            objective(torch.tensor([i]), references[[i]]).sum().backward()
            for name, parameter in tiny_backbone.named_parameters():
                if not parameter.requires_grad:  # what reads channels, which are not asked for
                    continue
                expected[layer_of(name)] += float(parameter.grad.square().sum())
    adapter.detach()
    total = sum(expected.values())
    for layer, share, _ in found:
        assert share == pytest.approx(expected[layer] / total, rel=1e-2, abs=1e-7)
    frozen = sensitivity_module.choose_frozen(found)
    assert 0 < len(frozen) < len(found)
    same = [one._replace(simulation=1.1 * one.room) for one in found]
    assert sensitivity_module.choose_frozen(same) == []
    adaptation = adapt(tiny_backbone, room, MethodSettings("full", freeze="auto"), settings, accelerator, tmp_path)
    assert adaptation.frozen == frozen
    assert not {layer_of(name) for name in adaptation.tensors} & set(frozen)
    assert "frozen |" in sensitivity_module.sensitivity_table(adaptation.sensitivities)


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
        ({"lr": -1.0}, "--lr is -1.0 but must be above 0 and below 1"),
        ({"patience": 0}, "--patience is 0"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0 but must be at least 0 and below 1"),
        ({"caution": -1.0}, "--caution is -1.0 but must be at least 0 and at most 100"),
        ({"caution": 100.5}, "--caution is 100.5 but must be at least 0 and at most 100"),
        ({"validation": "none"}, "--validation is 'none' but must be one of auto"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings(**values)
