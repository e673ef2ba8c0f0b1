"""How long changing the room takes, and rooms together."""

from __future__ import annotations

import copy
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarking.cases import (
    METHODS,
    make_backbone,
    make_room,
    make_store,
)
from benchmarking.timing import race, rates
from haa_peft import RoomPredictor


def swaps(size: str, device: str, rounds: int) -> dict:
    """Changing the room, against loading a full checkpoint into the network."""
    backbone, room = make_backbone(size, device), make_room(12)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "full.pth"
        torch.save(backbone.state_dict(), checkpoint)
        network = copy.deepcopy(backbone)

        def reload() -> None:
            network.load_state_dict(torch.load(checkpoint, map_location=device, weights_only=True))

        cases: dict[str, Callable[[], object]] = {"full checkpoint": reload}
        sizes = {"full checkpoint": checkpoint.stat().st_size}
        for method in METHODS:
            store = make_store(Path(folder) / method, backbone, room, 2, method)
            predictor = RoomPredictor.load("room/0", store=store, backbone=backbone)
            forgetful = RoomPredictor.load("room/0", store=store, backbone=backbone)

            def from_disk(predictor: RoomPredictor = forgetful) -> None:
                predictor.close()
                predictor.switch("room/1")

            def loaded(predictor: RoomPredictor = predictor) -> None:
                predictor.switch("room/0")
                predictor.switch("room/1")

            cases[f"{method} loaded, two swaps"] = loaded
            loaded()
            cases[f"{method} from disk"] = from_disk
            entry = store / "room" / "1"
            sizes[f"{method} from disk"] = sum(path.stat().st_size for path in entry.iterdir())
        seconds = race(cases, 3 * rounds, device)
        bandwidth = rates(device)["bytes_per_s"]
        for name, values in seconds.items():
            count = 2 if "two swaps" in name else 1
            label = name.replace(", two swaps", "")
            moved = sizes.get(name, 0)
            rows[label] = {
                "milliseconds": 1000 * statistics.median(values) / count,
                "bytes": moved,
                "times_faster": statistics.median(
                    [f / (s / count) for f, s in zip(seconds["full checkpoint"], values, strict=True)]
                ),
                "times_floor": statistics.median(values) / (moved / bandwidth) if moved else None,
            }
    return {"rows": rows}


def several_rooms(size: str, device: str, rounds: int) -> dict:
    """Sixteen rows of sixteen rooms, or of four, in one batch, against sixteen rows of one room."""
    backbone, room = make_backbone(size, device), make_room(12, 16)
    positions = room.positions[room.splits["valid"]]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in (*METHODS, "lora merged"):
            method = case.split()[0]
            store = make_store(Path(folder) / case.replace(" ", "-"), backbone, room, 16, method)
            predictor = RoomPredictor.load("room/0", store=store, backbone=backbone, merged="merged" in case)
            asked = {n: [(f"room/{i}", positions[i::n]) for i in range(n)] for n in (4, 16)}
            cases: dict[str, Callable[[], object]] = {"one": lambda predictor=predictor: predictor.predict(positions)}
            for n, requests in asked.items():
                cases[str(n)] = lambda predictor=predictor, requests=requests: predictor.predict_many(requests)
            seconds = race(cases, rounds, device)
            ratio = {
                n: statistics.median([s / one for s, one in zip(seconds[n], seconds["one"], strict=True)])
                for n in ("4", "16")
            }
            rows[case] = {
                "milliseconds_per_position_of_16_rooms": 1000 * statistics.median(seconds["16"]) / 16,
                "4_rooms_times_one": ratio["4"],
                "16_rooms_times_one": ratio["16"],
            }
            del predictor, cases
            shutil.rmtree(store)
    return {"rows": rows}
