"""Backbones, rooms, stores and single steps to be timed, by the package and plainly."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from haa_peft import load_backbone, load_room
from haa_peft.acoustics.losses import training_loss
from haa_peft.acoustics.spectrogram import magnitude_from_log
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.errors import InputError
from haa_peft.inference.packs import prepare_pack
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import nearest_references
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.oracle import plain_forward, use_plain_products
from haa_peft.rooms.room import Room
from haa_peft.store.card import card_digest
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import sha256
from haa_peft.training.objective import RoomObjective, draw_references

METHODS = ("lora", "bias", "full")
K = 8
PLAIN_TARGETS = 4
"""Targets of a plain training step: twelve do not fit in 24 GiB at the published size."""
CARD = {
    "method": {"method": "lora"},
    "training": {"k": K, "lr": None, "seed": 0, "steps": 0, "best_step": 0, "seconds": 0.0, "trainable_parameters": 0,
                 "adapter_bytes": 0},
}  # fmt: skip


def make_backbone(size: str, device: str) -> XRIR:
    if size == "small":
        return load_backbone("small").to(device)
    torch.manual_seed(0)
    return XRIR().eval().requires_grad_(False).to(device)


def make_room(shots: int, others: int = 0) -> Room:
    """A room of as many measurements as asked for: the twin's box, RIRs of it at drawn positions."""
    room = load_room("classroom-twin/base")
    rng = np.random.default_rng(0)
    low, high = room.geometry.bounds()
    positions = rng.uniform(low + 0.5, high - 0.5, (shots + others, 3))
    rirs = room.rirs[rng.integers(len(room.rirs), size=len(positions))]
    splits = {"train": np.arange(shots), "valid": np.arange(shots, shots + others), "test": np.arange(0)}
    return dataclasses.replace(room, rirs=rirs, positions=positions, splits=splits)


class Step:
    """A training step of an adapter, by the package or plainly."""

    def __init__(self, backbone: XRIR, room: Room, method: str, k: int = K, *, plain: bool = False, **options: bool):
        self.backbone = copy.deepcopy(backbone)
        self.plain, self.bfloat16 = plain, options.get("bfloat16", False)
        self.backbone.gradient_checkpointing = options.get("checkpointing", False)
        if plain:
            use_plain_products(self.backbone)
        self.adapter = attach(self.backbone, MethodSettings(method), 0)
        self.objective = RoomObjective(self.backbone, room).to(backbone.device).eval()
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=1e-4)
        self.k, self.step = k, 0
        self.shots = len(room.splits["train"])

    def __call__(self) -> None:
        """Do it."""
        objective, device = self.objective, self.backbone.device
        drawn = torch.from_numpy(draw_references(self.shots, self.k, 0, self.step)).to(device)
        self.step += 1
        if self.plain:
            rows = torch.arange(PLAIN_TARGETS, device=device)
            references = drawn[rows]
            predicted = plain_forward(
                self.backbone,
                objective.panorama.expand(PLAIN_TARGETS, -1, -1, -1),
                objective.rirs[references],
                objective.positions[rows],
                objective.positions[references],
            )
            loss = training_loss(predicted, objective.magnitudes[rows]).mean()
        else:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = objective(torch.arange(self.shots, device=device), drawn).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def published_griffin_lim() -> Callable[..., torch.Tensor]:
    """torchaudio's, which reconstructs as published; raises ``InputError`` where it does not load."""
    try:
        from torchaudio.functional import griffinlim
    except (ImportError, OSError, RuntimeError):  # missing, or its compiled part is of another release
        found = [distribution.version for distribution in importlib.metadata.distributions(name="torchaudio")]
        state = f"torchaudio {found[0]} does not load" if found else "torchaudio is not installed"
        raise InputError(
            f"{state} beside torch {torch.__version__}, and part predictions compares with its Griffin-Lim; "
            'pip install "haa-peft[torchaudio]" torch==2.11.0 torchaudio==2.11.0 (or another release that both have), '
            "or give --parts without predictions"
        ) from None
    return griffinlim


def plain_prediction(backbone: XRIR, room: Room, position: np.ndarray) -> np.ndarray:
    """One RIR as published: the whole network for one target, then torchaudio's Griffin-Lim."""
    griffinlim = published_griffin_lim()
    known, device = RoomTensors.of_room(room), backbone.device
    chosen = nearest_references(position[None], known.positions.numpy(), K)[0]
    inputs = (known.panorama, known.rirs[chosen], torch.from_numpy(position).float(), known.positions[chosen])
    with torch.no_grad():
        log_spectrogram = plain_forward(backbone, *(value.to(device)[None] for value in inputs))
        window = torch.hann_window(62, device=device)
        magnitudes = magnitude_from_log(log_spectrogram).clamp_min(0)
        return griffinlim(magnitudes, window, 124, 31, 62, 1.0, 32, 0.99, 9600, rand_init=True)[0].cpu().numpy()


def make_store(folder: Path, backbone: XRIR, room: Room, rooms: int, method: str = "lora") -> Path:
    """A store of as many rooms, all with the same adapter; their files are links to the first one's."""
    base = copy.deepcopy(backbone)
    adapter = attach(base, MethodSettings(method), 0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    config, tensors = adapter.config(), adapter.tensors()
    adapter.detach()
    card = {
        **CARD,
        "backbone": {"origin": backbone.origin, "fingerprint": fingerprint(backbone)},
        "room": {"name": room.name, "fingerprint": room.fingerprint, "source": "", "licence": "", "shots": 12},
    }
    pack = RoomPack.of_room(AdapterName("room", "0"), room, config, tensors, card)
    first = write_pack(folder, prepare_pack(base, pack))
    for i in range(1, rooms):
        other = folder / "room" / str(i)
        other.mkdir()
        for path in first.iterdir():
            if path.name not in ("card.json", "room.json"):
                os.link(path, other / path.name)
        about = json.loads((first / "room.json").read_text(encoding="utf-8")) | {"configuration": str(i)}
        (other / "room.json").write_text(json.dumps(about), encoding="utf-8")
        content = json.loads((first / "card.json").read_text(encoding="utf-8")) | {"name": f"room/{i}"}
        content["files"]["room.json"] = sha256((other / "room.json").read_bytes())
        (other / "card.json").write_text(json.dumps({**content, "digest": card_digest(content)}), encoding="utf-8")
    return folder
