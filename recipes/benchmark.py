"""How fast training steps, predictions and swaps are: against the plain computation, and against the machine's floor.

    python recipes/benchmark.py --json benchmark.json

Everything is timed in rounds, each case once a round, and given as ratios within rounds, since timings of a shared
machine drift. The plain computation is `haa_peft.model.plain`: 2 + K passes of the ViT and K of the ResNet per
target, as published. Sizes are the bundled backbone and the published one (random weights: time does not depend on
them). Rooms are made up from the embedded twin's. `times floor` is the time over what the counted operations would
take at the rate of a large matrix product, or for swaps the bytes at that of a large copy, both timed here.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from haa_peft.errors import InputError, command

with command():  # where another package does not load, it is one line
    import numpy as np
    import torch

    from haa_peft import RoomPredictor, load_backbone, load_room
    from haa_peft.acoustics.losses import training_loss
    from haa_peft.acoustics.spectrogram import magnitude_from_log
    from haa_peft.adapters.methods import MethodSettings, attach
    from haa_peft.evaluation.timing import floor, operations, race, rates, resident, start_peak, tensor_bytes, wait
    from haa_peft.files import check_report, write_report
    from haa_peft.inference.packs import prepare_pack
    from haa_peft.model.checkpoint import fingerprint
    from haa_peft.model.plain import plain_forward, use_plain_products
    from haa_peft.model.predict import nearest_references
    from haa_peft.model.tensors import RoomTensors
    from haa_peft.model.xrir import XRIR
    from haa_peft.rooms.room import Room
    from haa_peft.store.folder import write_pack
    from haa_peft.store.names import AdapterName
    from haa_peft.store.pack import RoomPack
    from haa_peft.tables import markdown
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--sizes", nargs="+", choices=("small", "published"), default=["small", "published"])
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--memory-of", nargs=3, metavar=("CASE", "SIZE", "DEVICE"), help=argparse.SUPPRESS)
    return parser.parse_args()


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
            if path.name != "card.json":
                os.link(path, other / path.name)
        content = json.loads((first / "card.json").read_text(encoding="utf-8"))
        (other / "card.json").write_text(json.dumps({**content, "name": f"room/{i}"}), encoding="utf-8")
    return folder


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


def memory(size: str, device: str, rounds: int) -> dict:
    """Peak memory of a training step beyond what the process held before it, each in a process of its own."""
    rows = {}
    for case in ("plain full", "full", "full checkpointing", "lora", "lora checkpointing", "bias"):
        command = [sys.executable, __file__, "--memory-of", case, size, device]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise InputError(f"measuring memory of {case} at size {size} failed: {found.stderr.strip()[-200:]}")
        rows[case] = json.loads(found.stdout.splitlines()[-1])
    plain = rows["plain full"]["bytes"]
    for row in rows.values():
        row["of_plain_full"] = row["bytes"] / plain
    return {"rows": rows}


def memory_of(case: str, size: str, device: str) -> None:
    """Print the peak memory of two training steps as JSON."""
    backbone, room = make_backbone(size, device), make_room(12)
    method = case.split()[-1] if case.startswith("plain") else case.split()[0]
    gc.collect()
    before = held = 0
    if device == "cpu":
        before = start_peak()
    else:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    step = Step(backbone, room, method, plain=case.startswith("plain"), checkpointing="checkpointing" in case)
    for _ in range(2):
        step()
    peak = (torch.cuda.max_memory_allocated() - held) if device != "cpu" else resident("VmHWM") - before
    print(json.dumps({"bytes": peak, "targets": PLAIN_TARGETS if step.plain else 12}))


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


PARTS = {
    "training": training,
    "predictions": predictions,
    "swaps": swaps,
    "rooms": several_rooms,
    "memory": memory,
    "growth": growth,
}


def cell(name: str, value: float | None) -> str:
    """A figure with the digits that its size deserves."""
    if value is None:
        return "-"
    if name in ("operations", "operations_per_position"):
        return f"{value / 1e9:.2f} G"
    if name == "bytes":
        return f"{value / 1e6:.2f} M"
    return f"{value:.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit that the benchmark is of, with a + if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    return found.stdout.strip() + "+" * (changed == 1) if found.returncode == 0 else None


def main() -> None:
    args = parse_arguments()
    if args.memory_of:
        memory_of(*args.memory_of)
        return
    if args.rounds < 1:
        raise InputError(f"--rounds is {args.rounds} but must be at least 1")
    if "predictions" in args.parts:
        published_griffin_lim()
    check_report(args.json, "benchmark")
    threads = torch.get_num_threads()
    report: dict = {
        "torch": torch.__version__,
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit(),
        "threads": threads,
        "k": K,
        "rounds": args.rounds,
        "results": [],
    }
    for device in args.devices:
        for size in args.sizes:
            for part in args.parts:
                print(f"\n{size} on {device}, {threads} threads: {part}. {PARTS[part].__doc__}\n", flush=True)
                found = PARTS[part](size, device, args.rounds)
                names = list(next(iter(found["rows"].values())))
                table = [["case", *(name.replace("_", " ") for name in names)]]
                table += [[case, *(cell(n, row.get(n)) for n in names)] for case, row in found["rows"].items()]
                print(markdown(table), flush=True)
                report["results"].append({"size": size, "device": device, "part": part, **found})
                if args.json is not None:
                    write_report(args.json, "benchmark", report)


if __name__ == "__main__":
    with command("finished parts are in the JSON file, if one was asked for"):
        main()
