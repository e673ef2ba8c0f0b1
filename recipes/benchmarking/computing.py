"""How long training steps and predictions take, how that grows, and the memory of a step."""

from __future__ import annotations

import copy
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarking.cases import (
    METHODS,
    PLAIN_TARGETS,
    Step,
    make_backbone,
    make_room,
    make_store,
    plain_prediction,
)
from benchmarking.timing import floor, operations, race, rates, tensor_bytes, wait
from haa_peft import RoomPredictor
from haa_peft.oracle import use_plain_products


def training(size: str, device: str, rounds: int) -> dict:
    """Steps of 12 targets against plain full fine-tuning, per target."""
    backbone, room = make_backbone(size, device), make_room(12)
    steps = {"plain full": Step(backbone, room, "full", plain=True)}
    steps |= {method: Step(backbone, room, method) for method in METHODS}
    steps["lora bfloat16"] = Step(backbone, room, "lora", bfloat16=True)
    steps["full bfloat16"] = Step(backbone, room, "full", bfloat16=True)
    first = {}
    for name in ("lora",):  # the step that fills what later ones reuse
        start = time.perf_counter()
        steps[name]()
        wait(device)
        first[name] = time.perf_counter() - start
    seconds = race(dict(steps), rounds, device)
    best = rates(device)
    rows = {}
    for name, step in steps.items():
        targets = PLAIN_TARGETS if step.plain else 12
        per_target = [s / targets for s in seconds[name]]
        ratios = [p / PLAIN_TARGETS / s for p, s in zip(seconds["plain full"], per_target, strict=True)]
        count = operations(step)
        trained = sum(4 * parameter.numel() for parameter in step.adapter.parameters())
        # weights are read forward and back; AdamW reads and writes weights and two moments, and gradients come and go
        moved = 2 * tensor_bytes(backbone) + 9 * trained
        rows[name] = {
            "seconds_per_step": statistics.median(seconds[name]),
            "targets": targets,
            "times_faster_per_target": statistics.median(ratios),
            "operations": count,
            "bytes": moved,
            "times_floor": statistics.median(seconds[name]) / floor(name, count, moved, best),
        }
    return {"rows": rows, "first_step_seconds": first, "rates": best}


def predictions(size: str, device: str, rounds: int) -> dict:
    """Positions in one prepared room against plain predictions, with their waveforms."""
    backbone, room = make_backbone(size, device), make_room(12, 100)
    plain = copy.deepcopy(backbone)
    use_plain_products(plain)
    targets = room.positions[room.splits["valid"]]
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), backbone, room, 1)
        options: dict[str, dict] = {"": {}, " merged": {"merged": True}, " bfloat16": {"precision": "bfloat16"}}
        options[" phase of references"] = {"phase": "references"}  # all others reconstruct as published
        if shutil.which("c++") or shutil.which("g++"):
            options[" compiled"] = {"compiled": True}
        predictors = {
            name: RoomPredictor.load("room/0", store=store, backbone=backbone, **{"phase": "random", **given})
            for name, given in options.items()
        }
        cases: dict[str, Callable[[], object]] = {
            "plain, one": lambda: plain_prediction(plain, room, targets[0] - room.receiver)
        }
        for name, predictor in predictors.items():
            cases[f"100 at once{name}"] = lambda predictor=predictor: predictor.predict(targets)
        cases["ten, one by one"] = lambda: [predictors[""].predict(target) for target in targets[:10]]
        seconds = race(cases, rounds, device)
        best = rates(device)
        rows = {}
        for name, case in cases.items():
            count = {"100": 100, "ten": 10}.get(name[:3], 1)
            ratios = [p / (s / count) for p, s in zip(seconds["plain, one"], seconds[name], strict=True)]
            operated = operations(case) if "compiled" not in name else operations(cases["100 at once merged"])
            rows[name] = {
                "milliseconds_per_position": 1000 * statistics.median(seconds[name]) / count,
                "at_best": 1000 * min(seconds[name]) / count,
                "positions_per_second": count / statistics.median(seconds[name]),
                "times_faster": statistics.median(ratios),
                "operations_per_position": operated / count,
                "bytes": tensor_bytes(backbone),
                "times_floor": statistics.median(seconds[name]) / floor(name, operated, tensor_bytes(backbone), best),
            }
    return {"rows": rows, "rates": best}


def growth(size: str, device: str, rounds: int) -> dict:
    """How time grows with targets, references and rooms."""
    backbone = make_backbone(size, device)
    rows: dict[str, dict] = {}
    slow = size == "published" and device == "cpu"  # one step of 600 targets would take minutes and 40 GB

    def add(name: str, items: int, make: Callable[[], Callable[[], object]], times: int = min(rounds, 3)) -> None:
        try:
            rows[name] = _grown(race({name: make()}, times, device)[name], items)
        except torch.OutOfMemoryError:
            rows[name] = {"milliseconds": None, "milliseconds_each": None}

    for targets in (12, 50) if slow else (12, 50, 150, 600):
        add(f"LoRA step, {targets} targets", targets, lambda n=targets: Step(backbone, make_room(n), "lora"))
    for k in (1, 4, 8, 12):
        add(f"LoRA step, 13 targets, K = {k}", 13, lambda k=k: Step(backbone, make_room(13), "lora", k))
    room = make_room(12, 600)
    asked = room.positions[room.splits["valid"]]
    with tempfile.TemporaryDirectory() as folder:
        counts = (1, 10, 100) if slow else (1, 10, 100, 1000)
        store = make_store(Path(folder), backbone, room, counts[-1])
        predictor = RoomPredictor.load("room/0", store=store, backbone=backbone, max_loaded=100)
        for n in (12, 50) if slow else (12, 150, 600):
            add(f"prediction, {n} positions", n, lambda n=n: lambda: predictor.predict(asked[:n]))
        for k in (1, 4, 8, 12):
            add(f"prediction, 12 positions, K = {k}", 12, lambda k=k: lambda: predictor.predict(asked[:12], k=k))
        for n in counts:
            requests = [(f"room/{i}", asked[i % 600]) for i in range(n)]
            name = f"prediction, 1 position in each of {n} rooms"
            add(name, n, lambda r=requests: lambda: predictor.predict_many(r), 1)
    return {"rows": rows}


def _grown(seconds: list[float], items: int) -> dict:
    """Time of all and of each."""
    return {
        "milliseconds": 1000 * statistics.median(seconds),
        "milliseconds_each": 1000 * statistics.median(seconds) / items,
    }
