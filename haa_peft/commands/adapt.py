"""``haa-peft adapt``: adapt the backbone to a room."""

from __future__ import annotations

import argparse
from typing import Any

from haa_peft.options import add_arguments


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "adapt",
        help="adapt to a room by any method, in this process",
        description="Adapt the backbone to a room, compare it with baselines where it was not measured, and store it.",
        usage="haa-peft adapt [ROOM] [--method METHOD] [--name ROOM/CONFIGURATION] [...]",
        example="haa-peft adapt path/to/hallwayPanel1 --method lora --json report.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_run)
    parser.add_argument("room", metavar="ROOM", nargs="?", default=argparse.SUPPRESS, help="the same as --room")
    add_arguments(parser, None)


def _run(args: argparse.Namespace) -> None:
    from haa_peft.finetune import finetune

    finetune(args)
