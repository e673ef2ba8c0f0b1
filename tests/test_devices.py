"""The same numbers on a GPU as on the CPU; skipped where there is no GPU."""

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, load_room
from haa_peft.acoustics.spectrogram import log_magnitude
from haa_peft.acoustics.waveform import griffin_lim, random_phases
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.adapters.settings import METHODS
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from haa_peft.training.objective import RoomObjective, draw_references
from tests.store.test_store import make_pack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
LEARNED = [method for method in METHODS if method != "statistics"]  # needs BatchNorm, which the tiny backbone lacks
QUERIES = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.5], [3.0, 3.3, 0.7]])


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def test_spectrograms_and_waveforms(room):
    rirs = torch.from_numpy(room.rirs)
    logs = log_magnitude(rirs)
    torch.testing.assert_close(log_magnitude(rirs.cuda()).cpu(), logs, rtol=0, atol=1e-3)
    phases = random_phases(list(range(len(rirs)))).double()
    here = griffin_lim(logs.exp().double(), phases)
    torch.testing.assert_close(griffin_lim(logs.exp().double().cuda(), phases.cuda()).cpu(), here, rtol=0, atol=1e-6)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """Convolutions take TF32 by default on such GPUs, whose gradients are 4 % off in the smallest layers."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("method", LEARNED)
def test_losses_and_gradients(method, room, tiny_backbone):
    adapter = attach(tiny_backbone, MethodSettings(method), 0)
    references = torch.from_numpy(draw_references(12, 4, 0, 0))
    found = []
    for device in ("cpu", "cuda"):
        tiny_backbone.to(device)
        objective = RoomObjective(tiny_backbone, room).to(device).eval()
        loss = objective(torch.arange(12, device=device), references.to(device)).mean()
        loss.backward()
        found.append([loss.detach().cpu(), *(p.grad.cpu() for p in adapter.parameters())])
        for parameter in adapter.parameters():
            parameter.grad = None
    for here, there in zip(*found, strict=True):
        assert float((here - there).norm()) <= 1e-3 * float(here.norm())


def test_predictions(room, tiny_backbone, tmp_path):
    for method in LEARNED:
        write_pack(tmp_path, make_pack(room, tiny_backbone, AdapterName("studio", method), method=method))
    requests = [(f"studio/{method}", QUERIES) for method in LEARNED]
    here, there = (
        RoomPredictor.load("studio/lora", store=tmp_path, backbone=tiny_backbone, device=device).predict_many(requests)
        for device in ("cpu", "cuda")
    )
    assert tiny_backbone.device.type == "cpu"
    for expected, found in zip(here, there, strict=True):
        assert np.abs(np.abs(found).max(axis=1) / np.abs(expected).max(axis=1) - 1).max() < 0.05
