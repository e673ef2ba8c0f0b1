"""``haa-peft study``: rooms x runs x seeds as a YAML file names them, and the report of what came out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_workers


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "study",
        help="compare ways to adapt in several rooms, with intervals",
        description="Run what is missing of a study, and write its report. A study that was stopped goes on.",
        example="haa-peft study recipes/studies/methods-r3vival.yaml --rooms studio/base studio/panel",
    )
    parser.set_defaults(command=run)
    parser.add_argument("study", type=Path, metavar="FILE", help="YAML file; see recipes/studies")
    add_arguments(parser)


def add_arguments(parser: Any, results: str = "results") -> None:
    """Arguments beside the study's file; ``results`` is the folder of results in words."""
    parser.add_argument("--rooms", nargs="+", metavar="ROOM", default=[], help="room folders or names "
                        "instead of the study's; runs that name rooms of the study are left out")  # fmt: skip
    parser.add_argument("--backbone", default="", metavar="FILE", help="checkpoint or bundled name "
                        "instead of the study's")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"of results (default: {results}/STUDY; "
                        "with --rooms or --backbone results/ROOMS-STUDY-BACKBONE)")  # fmt: skip
    add_workers(parser, "runs")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report of what is there")


def run(args: argparse.Namespace, results: Path = Path("results")) -> None:
    """Run a study; results go to ``results`` unless ``--out``, ``--rooms`` or ``--backbone`` is given."""
    from haa_peft.studies import study

    page = study(
        args.study, args.rooms, backbone=args.backbone, out=args.out,
        results=Path("results") if args.rooms or args.backbone else results,
        executor=args.executor, workers=args.workers, report_only=args.report_only,
    )  # fmt: skip
    print(f"\n{page}")
