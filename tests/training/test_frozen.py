import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from haa_peft import load_room
from haa_peft.adapters.delta import DeltaAdapter
from haa_peft.adapters.methods import MethodSettings, attach, changed_tensors
from haa_peft.model.xrir import XRIR
from haa_peft.training import frozen as frozen_module
from haa_peft.training.adapt import adapt
from haa_peft.training.objective import RoomObjective, draw_references
from haa_peft.training.settings import TrainingSettings
from tests.conftest import TINY
from tests.training.anew import AnewObjective

HEADS = ("src_coord_proj.", "reflection_proj.", "lin_proj_1.", "lin_proj_2.", "energy_blend.")
STAGES = 1 + 2 * TINY.depth + 1 + 2
"""Embedding, two blocks a layer, norm, projection of the width and of the tokens."""


def heads(backbone, ending=""):
    return [name for name in changed_tensors(backbone, "full") if name.startswith(HEADS) and name.endswith(ending)]


TRAINED = {
    "lora": (lambda b: attach(b, MethodSettings("lora"), 0), 0, True),
    "bias": (lambda b: attach(b, MethodSettings("bias"), 0), 0, False),
    "full": (lambda b: attach(b, MethodSettings("full"), 0), 0, False),
    "heads": (lambda b: DeltaAdapter(b, "full", heads(b)), STAGES, True),
    "bias of heads": (lambda b: DeltaAdapter(b, "bias", heads(b, ".bias")), STAGES, True),
    "lora on the last layer and the heads": (
        lambda b: attach(
            b,
            MethodSettings(
                "lora",
                rank=2,
                ranks={
                    "source_network.to_patch_embedding": 0,
                    "source_network.transformer.layers.0": 0,
                    "lin_proj_0": 0,
                },
            ),
            0,
        ),
        3,
        True,
    ),
    "what reads channels": (
        lambda b: DeltaAdapter(b, "full", ["source_network.surface_embedding.weight"]),
        0,
        True,
    ),
    "norms of the audio encoder": (
        lambda b: DeltaAdapter(b, "full", [n for n, _ in b.named_parameters() if "audio_enc" in n and "bn" in n]),
        STAGES,
        False,
    ),
}


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def trajectory(backbone, room, attach_one, kind, steps=5):
    """Losses and final weights of a few steps, and how many inputs the encoders saw in the last of them."""
    torch.manual_seed(0)
    adapter = attach_one(backbone)
    objective = kind(backbone, room).double().eval()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
    losses, seen = [], {"encode_views": 0, "encode_audio": 0}
    with pytest.MonkeyPatch.context() as patch:
        for step in range(steps):
            if step == steps - 1:
                for encoder in seen:
                    real = getattr(backbone, encoder)

                    def counted(x, *more, encoder=encoder, real=real, **options):
                        is_work = encoder == "encode_audio" or (options.get("first", 0) < STAGES and more != (0, 0))
                        seen[encoder] += is_work * x.shape[: -2 if encoder == "encode_audio" else 1].numel()
                        return real(x, *more, **options)

                    patch.setattr(backbone, encoder, counted)
            # the same references in the last two steps, so that every pair of the last is known
            references = torch.from_numpy(draw_references(12, 4, 0, min(step, steps - 2)))
            loss = objective(torch.arange(12), references).mean()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    stages, validation = objective.room.stages, float(objective.validation_losses(4).mean())
    tensors = adapter.tensors()
    adapter.detach()
    return losses, tensors, validation, stages, seen


@pytest.mark.parametrize("changes", [{}, {"align_before_encoding": True, "normalisation": "batch"}], ids=str)
@pytest.mark.parametrize("trained", TRAINED)
def test_trajectories_with_and_without_what_is_kept(trained, changes, room):
    attach_one, stages, audio_frozen = TRAINED[trained]
    torch.manual_seed(0)
    backbone = XRIR(dataclasses.replace(TINY, **changes)).double().eval().requires_grad_(False)
    if trained == "what reads channels":
        room = room.with_channels(["normals"])
    kept, anew = (trajectory(backbone, room, attach_one, kind) for kind in (RoomObjective, AnewObjective))
    np.testing.assert_allclose(kept[0], anew[0], rtol=1e-9)
    assert kept[0][0] != kept[0][-1]
    assert kept[2] == pytest.approx(anew[2], rel=1e-9)
    for name, tensor in anew[1].items():
        torch.testing.assert_close(kept[1][name], tensor, rtol=1e-6, atol=1e-9)
    assert kept[3] == stages
    inputs = 48 if changes else 12  # aligned pairs, or references as measured
    assert anew[4] == {"encode_views": 13, "encode_audio": inputs}
    assert kept[4] == {"encode_views": 13 * (stages < STAGES), "encode_audio": inputs * (not audio_frozen)}


@pytest.mark.parametrize("trained", ["lora", "heads"])
@pytest.mark.parametrize("changes", [{}, {"align_before_encoding": True}], ids=str)
def test_what_does_not_fit_is_computed_anew(trained, changes, room, monkeypatch):
    torch.manual_seed(0)
    backbone = XRIR(dataclasses.replace(TINY, **changes)).eval().requires_grad_(False)
    TRAINED[trained][0](backbone)
    references = torch.from_numpy(draw_references(12, 4, 0, 0))
    kept = RoomObjective(backbone, room)
    expected = kept(torch.arange(12), references)
    assert frozen_module.all_pairs(backbone, kept.room)[0].shape == (16, 12, 63, 310)
    monkeypatch.setattr(frozen_module, "KEPT_BYTES", 1000)
    objective = RoomObjective(backbone, room)
    torch.testing.assert_close(objective(torch.arange(12), references), expected)
    assert frozen_module.all_pairs(backbone, objective.room) is None
    assert objective.room.views is None


def test_a_failure_while_filling_leaves_nothing_wrong(room, tiny_backbone, monkeypatch):
    references = torch.from_numpy(draw_references(12, 4, 0, 0))
    objective = RoomObjective(tiny_backbone, room)
    expected = RoomObjective(tiny_backbone, room)(torch.arange(12), references)
    with monkeypatch.context() as patch:
        patch.setattr(frozen_module, "log_magnitude", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            objective(torch.arange(12), references)
    torch.testing.assert_close(objective(torch.arange(12), references), expected)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpointing_changes_no_gradient(method, room, tiny_backbone):
    adapter = attach(tiny_backbone, MethodSettings(method), 0)
    references = torch.from_numpy(draw_references(12, 4, 0, 0))
    gradients = []
    for tiny_backbone.gradient_checkpointing in (False, True):
        objective = RoomObjective(tiny_backbone, room).eval()
        objective(torch.arange(12), references).mean().backward()
        gradients.append([parameter.grad.clone() for parameter in adapter.parameters()])
        for parameter in adapter.parameters():
            parameter.grad = None
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-4, atol=1e-8)
    adapter.detach()


def test_mixed_precision_keeps_adapters_in_single(room, tiny_backbone, tmp_path):
    settings = TrainingSettings(max_steps=20, k=4, validate_every=5, warmup=2, lr=1e-2)
    runs = {}
    try:
        for precision in ("no", "bf16"):
            AcceleratorState._reset_state(reset_partial_state=True)
            accelerator = Accelerator(cpu=True, mixed_precision=precision)
            runs[precision] = adapt(tiny_backbone, room, MethodSettings(), settings, accelerator, tmp_path / precision)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    lower, exact = runs["bf16"], runs["no"]
    assert lower.precision == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in lower.tensors.values())
    assert not torch.equal(*(run.tensors["base_model.model.lin_proj_1.proj.lora_B.weight"] for run in (lower, exact)))
    gain = {name: run.validation[0][1] - min(loss for _, loss in run.validation) for name, run in runs.items()}
    assert gain["bf16"] == pytest.approx(gain["no"], rel=0.2)
