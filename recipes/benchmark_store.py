"""What a store costs that holds ten adapters, a thousand, and a hundred thousand.

    python recipes/benchmark_store.py --sizes 10 2000 100000 --json recipes/results/store.json

Copies of an adapter of the repository's store, ten configurations a room, whose large files are hard links, are made
in a temporary folder (some 2 GB for 100 000) and removed. Every command runs in a process of its own; the numbers are
the least of several, since other work on a machine only adds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from haa_peft import RoomPredictor
from haa_peft.commands.ending import command
from haa_peft.commands.tables import ALIGNED, markdown
from haa_peft.errors import InputError
from haa_peft.files import nan_to_null, write_json
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_files
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, ROOM, json_bytes, sha256

SHIPPED = Path(__file__).parents[1] / "adapters"
SOURCE = AdapterName("classroom-twin", "base")
CONFIGURATIONS = 10
LINKS = 30_000
"""Of a file, at most; file systems allow 32 000 or more."""
ROWS = {
    "first line of `adapters list`, s": "first_line_s",
    "`adapters list`, ms for each further adapter": "line_ms",
    "`adapters list ROOM`, s": "room_s",
    "`adapters show NAME`, s": "show_s",
    "name that is not there, ms": "absent_ms",
    "load by name in a process, ms": "load_ms",
    "switch from disk, ms": "disk_ms",
    "switch in memory, ms": "memory_ms",
    "memory of the process, MB": "resident_mb",
}


def make_store(store: Path, count: int) -> list[AdapterName]:
    """Fill a store with so many whole adapters; a few of their names, spread over it."""
    files = read_files(SHIPPED, SOURCE)
    card, room = json.loads(files[CARD]), json.loads(files[ROOM])
    heavy = [name for name in files if name not in (CARD, ROOM)]
    names = [AdapterName(f"room-{i // CONFIGURATIONS:05}", f"state-{i % CONFIGURATIONS}") for i in range(count)]
    first = store
    for number, name in enumerate(names):
        folder = name.folder(store)
        folder.mkdir(parents=True)
        for file_name in heavy:
            if number % LINKS == 0:
                (folder / file_name).write_bytes(files[file_name])
            else:
                os.link(first / file_name, folder / file_name)
        first = folder if number % LINKS == 0 else first
        about = json_bytes({**room, "room": name.room, "configuration": name.configuration})
        (folder / ROOM).write_bytes(about)
        own = {**card, "name": str(name), "files": {**card["files"], ROOM: sha256(about)}}
        (folder / CARD).write_bytes(json_bytes({**own, "digest": card_digest(own)}))
    return names[:: max(1, count // 10)][:10]


def run(*arguments: str) -> tuple[float, float, int]:
    """Seconds to the first adapter's line and to the end of a command, and how many lines it wrote."""
    began, first, lines = time.monotonic(), 0.0, 0
    with subprocess.Popen([sys.executable, "-m", "haa_peft", *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            lines += 1
            first = first or time.monotonic() - began
    if process.returncode:
        raise InputError(f"haa-peft {' '.join(arguments)} failed")
    return first, time.monotonic() - began, lines


def least(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of a call, the least of several."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)


def measure(store: Path, names: list[AdapterName], count: int, rounds: int) -> dict[str, float]:
    """The figures of a store."""
    import psutil

    where = ["--store", str(store)]
    lists = [run("adapters", "list", *where) for _ in range(3 if count <= 10_000 else 1)]
    first, whole, lines = map(min, zip(*lists, strict=True))
    assert lines == count + 2
    found = {
        "adapters": count,
        "first_line_s": first,
        "line_ms": 1000 * (whole - first) / count if count > 10 * ALIGNED else math.nan,
    }
    found["room_s"] = min(run("adapters", "list", names[0].room, *where)[1] for _ in range(3))
    found["show_s"] = min(run("adapters", "show", str(names[-1]), *where)[1] for _ in range(3))
    predictor = RoomPredictor.load(str(names[0]), store=store)

    def absent() -> None:
        try:
            predictor.switch("room-00000/nowhere")
        except InputError:
            return
        raise InputError("room-00000/nowhere is there")

    def from_disk() -> None:
        predictor.close()
        predictor.switch(str(names[-1]))

    def in_memory() -> None:
        for name in names:
            predictor.switch(str(name))

    found["load_ms"] = least(lambda: RoomPredictor.load(str(names[-1]), store=store), 3)
    found["absent_ms"], found["disk_ms"] = least(absent, 3), least(from_disk, rounds)
    in_memory()
    found["memory_ms"] = least(in_memory, rounds) / len(names)
    found["resident_mb"] = psutil.Process().memory_info().rss / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 2000, 100_000], help="of the stores")
    parser.add_argument("--rounds", type=int, default=20, help="of a measurement (default: 20)")
    parser.add_argument(
        "--folder", type=Path, help="in which the stores are made (default: the system's temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    results = []
    with command():
        for count in args.sizes:
            with tempfile.TemporaryDirectory(dir=args.folder, prefix="haa-peft-store-") as folder:
                names = make_store(Path(folder), count)
                results.append(measure(Path(folder), names, count, args.rounds))
        head = ["adapters in the store", *(f"{result['adapters']}" for result in results)]
        rows = [
            [title, *("-" if math.isnan(result[key]) else f"{result[key]:.3g}" for result in results)]
            for title, key in ROWS.items()
        ]
        print(markdown([head, *rows]))
        if args.json is not None:
            write_json(args.json, nan_to_null({"kind": "benchmark-store", "stores": results}))


if __name__ == "__main__":
    main()
