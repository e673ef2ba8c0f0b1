"""``haa-peft listen``: a local page to hear and see adapted rooms."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_store
from haa_peft.errors import InputError


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "listen",
        help="open a local page: click the plan, listen, swap configurations",
        description="A page on this machine: choose a room and a configuration, click a position on its plan, hear "
        "a sound there, see metrics and the decay curve. Needs gradio: pip install \"haa-peft[listen]\".",
        example="haa-peft listen classroom-twin/base classroom-twin/panel",
    )  # fmt: skip
    parser.set_defaults(command=_run)
    parser.add_argument("names", metavar="NAME", nargs="*", help="adapters, those of one room are its configurations "
                        "(default: all of the store)")  # fmt: skip
    parser.add_argument("--hrtf", type=Path, metavar="FILE.sofa", help="head-related transfer functions, for binaural "
                        "sound")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another one lets other machines in "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--host-name", action="append", default=[], metavar="NAME", help="that the page is called by, "
                        "besides localhost and IP addresses; several times for several")  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    add_store(parser)


def _run(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port is {args.port} but must be from 0 to 65535")
    if args.hrtf is not None and not args.hrtf.is_file():
        raise InputError(f"--hrtf {args.hrtf}: no such file; give a SOFA file with head-related transfer functions")
    from haa_peft.page.serve import listen

    def ready(address: str) -> None:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if not args.no_browser and _has_screen():
            import webbrowser

            webbrowser.open(address)

    listen(args.names, store=args.store, backbone=args.backbone, host=args.host, port=args.port, hrtf=args.hrtf,
           host_names=args.host_name, ready=ready)  # fmt: skip


def _has_screen() -> bool:
    """Whether a browser would open a window; one in the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
