"""``haa-peft download``: measured rooms of other people."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "download",
        help="fetch measured rooms",
        description="Fetch measured rooms; what is there already is kept.",
        example="haa-peft download haa hallwayBase hallwayPanel1 --out haa",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("dataset", choices=("haa",), help="Hearing Anything Anywhere, Zenodo record 11195833")
    parser.add_argument(
        "configurations", nargs="*", metavar="CONFIGURATION", help="such as hallwayPanel1; all unless given"
    )
    parser.add_argument("--out", type=Path, default=Path("haa"), metavar="FOLDER", help="default: haa")


def _run(args: argparse.Namespace) -> None:
    from haa_peft.downloads import download

    download(args.dataset, args.configurations, args.out)
