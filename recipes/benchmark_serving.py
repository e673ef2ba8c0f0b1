"""How many queries a second a server answers, and how long each waits, against one process.

    python recipes/benchmark_serving.py --json recipes/results/serving.json

Needs `pip install "haa-peft[serve]"`. The rooms are copies of an adapter of the repository's store, ten configurations
a room, drawn with probabilities that fall as 1 / rank (Zipf), since some rooms are asked for more than others. One
process is a RoomPredictor that answers one query after the other, or those of threads that share it. Servers run on a
Ray cluster of two nodes on this machine, a core each. Clients are threads of this process, each of which asks when it
has its answer (closed loop).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_store import make_store

from haa_peft import RoomPredictor
from haa_peft.commands.ending import command
from haa_peft.commands.tables import markdown
from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.files import write_json
from haa_peft.serving import Client, Serving, start, stop
from haa_peft.store.names import iterate_names

PLACES = np.array([[3.0, 2.0, 1.3], [5.0, 6.0, 1.3], [2.0, 3.0, 1.1], [4.0, 4.0, 1.5]])
"""m, in the room of the copied adapter."""
Ask = Callable[[str, np.ndarray], np.ndarray]
OBJECTS = 200 * 2**20


def draws(names: list[str], count: int, positions: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Queries: a room each, and so many positions in it."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, len(names) + 1)
    rooms = rng.choice(len(names), count, p=shares / shares.sum())
    places = PLACES[np.arange(positions) % len(PLACES)]
    return [(names[room], places + rng.uniform(-0.5, 0.5, places.shape)) for room in rooms]


def load(queries: list[list[tuple[str, np.ndarray]]], ask: Callable[[], Ask], known: dict) -> dict[str, float]:
    """Queries a second and milliseconds of a query, of as many clients as there are lists."""
    waited: list[float] = []
    wrong: list[str] = []

    def client(mine: list[tuple[str, np.ndarray]]) -> None:
        one = ask()
        for name, places in mine:
            began = time.perf_counter()
            rirs = one(name, places)
            waited.append(time.perf_counter() - began)
            if not np.array_equal(rirs, known[name, places.tobytes()]):
                wrong.append(name)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in queries]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    total = sum(map(len, queries))
    if wrong or len(waited) != total:
        raise InputError(f"{len(wrong)} answers of {total} are wrong and {total - len(waited)} are missing")
    cuts = statistics.quantiles(waited, n=100)
    return {"queries_per_s": len(waited) / seconds, "p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98]}


def memory_of_rooms(store: Path, names: list[str]) -> dict[str, float]:
    """MB of a process with the backbone, and of each room that it holds."""
    import psutil

    process = psutil.Process()
    predictor = RoomPredictor.load(names[0], store=store, max_loaded=len(names))
    predictor.predict(PLACES)
    before = process.memory_info().rss
    predictor.prefetch(names[1:])
    return {"process_mb": before / 1e6, "room_mb": (process.memory_info().rss - before) / 1e6 / (len(names) - 1)}


def measure(store: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One process, then servers with as many clients as asked for."""
    names = list(map(str, iterate_names(store)))
    torch.set_num_threads(1)
    memory = memory_of_rooms(store, names[:100])
    predictor = RoomPredictor.load(names[0], store=store, max_loaded=args.max_loaded)

    def here(name: str, places: np.ndarray) -> np.ndarray:
        predictor.switch(name)
        return predictor.predict(places)

    rows = []
    every = [draws(names, args.queries // n, args.positions, 1 + i) for n in args.clients for i in range(n)]
    known = {(name, places.tobytes()): here(name, places) for mine in every for name, places in mine}
    first = [query for mine in every[: args.clients[0]] for query in mine]
    rows.append({"how": "one process", "clients": 1, **load([first], lambda: here, known), **memory})
    for threads in args.threads:
        shared = [first[i::threads] for i in range(threads)]
        rows.append({"how": "one process, threads", "clients": threads, **load(shared, lambda: here, known)})
    ray = package("ray", "this recipe", "serve")
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": OBJECTS}
    cluster = Cluster(initialize_head=True, head_node_args=settings)
    try:
        cluster.add_node(**settings)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        serving = Serving(store, port=args.port, replicas=2, max_loaded=args.max_loaded, cluster=True)
        url, begin = start(serving), 0
        for clients in args.clients:
            mine, begin = every[begin : begin + clients], begin + clients
            Client(url).predict(names[0], PLACES)
            rows.append({"how": "server, two nodes", "clients": clients,
                         **load(mine, lambda: Client(url).predict, known)})  # fmt: skip
        stop(serving)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=int, default=200, help="adapters in the store (default: 200)")
    parser.add_argument("--queries", type=int, default=600, help="of each measurement (default: 600)")
    parser.add_argument("--positions", type=int, default=1, help="of a query (default: 1)")
    parser.add_argument("--threads", type=int, nargs="*", default=[2, 8], help="sharing a predictor (default: 2 8)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="at once (default: 1 4 16)")
    parser.add_argument("--max-loaded", type=int, default=64, help="rooms in each process (default: 64)")
    parser.add_argument("--port", type=int, default=8456, help="(default: 8456)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with command(), tempfile.TemporaryDirectory(prefix="haa-peft-serving-") as folder:
        make_store(Path(folder), args.rooms)
        rows = measure(Path(folder), args)
        head = ["", "clients", "queries a second", "p50 ms", "p99 ms"]
        cells = [[row["how"], str(row["clients"]), f"{row['queries_per_s']:.0f}", f"{row['p50_ms']:.0f}",
                  f"{row['p99_ms']:.0f}"] for row in rows]  # fmt: skip
        print(markdown([head, *cells]))
        memory = f"{rows[0]['process_mb']:.0f} MB a process, {rows[0]['room_mb']:.2f} MB a room in memory"
        print(f"\n{args.rooms} rooms, {args.positions} position(s) a query, {os.cpu_count()} cores; {memory}")
        if args.json is not None:
            about = {"cores": os.cpu_count(), "rooms": args.rooms, "positions": args.positions}
            write_json(args.json, {"kind": "benchmark-serving", **about, "max_loaded": args.max_loaded, "rows": rows})


if __name__ == "__main__":
    main()
