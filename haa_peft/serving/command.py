"""``haa-peft serve``: RIRs of stored adapters over HTTP."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_backbone
from haa_peft.satellites import satellite
from haa_peft.store.names import STORE_VARIABLE


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "serve",
        help="answer requests for RIRs over HTTP",
        description="Serve stored adapters by Ray Serve; each request goes to a process that holds its room.",
        example="haa-peft serve adapters --port 8000",
    )
    parser.set_defaults(command=_serve)
    parser.add_argument("store", metavar="STORE", nargs="?", help=f"of adapters (default: ${STORE_VARIABLE} or "
                        "./adapters)")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all, which everyone on "
                        "the network can then ask (default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument("--replicas", type=int, metavar="N", help="processes that hold rooms (default: one for each "
                        "GPU, or each core)")  # fmt: skip
    parser.add_argument("--max-loaded", type=int, default=32, metavar="N", help="rooms that each keeps in memory "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--pin", nargs="+", default=[], metavar="NAME", help="adapters that each loads as it starts, "
                        "and keeps")  # fmt: skip
    parser.add_argument("--cluster", action="store_true", help="use the Ray cluster that is running ($RAY_ADDRESS, or "
                        "this machine's)")  # fmt: skip
    add_backbone(parser)


def _serve(args: argparse.Namespace) -> None:
    satellite("serving", "serve")
    from haa_peft.serving.application import Serving, start, stop
    from haa_peft.store.names import store_folder

    backbone = str(Path(args.backbone).resolve()) if Path(args.backbone).exists() else args.backbone
    serving = Serving(
        store_folder(args.store).resolve(), backbone, args.host, args.port, args.replicas, args.max_loaded,
        tuple(args.pin), args.cluster,
    )  # fmt: skip
    ended = threading.Event()
    url = start(serving)
    try:
        print(f"serving {serving.store} at {url}; POST /predict, POST /prefetch; Ctrl-C ends it", flush=True)
        before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
        while not ended.wait(1):
            pass
        signal.signal(signal.SIGTERM, before)
    finally:
        stop(serving)
