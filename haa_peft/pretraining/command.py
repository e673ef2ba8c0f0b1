"""``haa-peft pretrain``: rooms to pretrain a backbone in, and what it makes of rooms that it has not seen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_backbone, add_phase, add_seed_and_json, add_workers
from haa_peft.commands.outputs import check_report, write_report


def add(commands: Any) -> None:
    """Declare them."""
    parser = commands.add_parser(
        "pretrain",
        help="simulate rooms to pretrain in; evaluate a backbone in rooms that it has not seen",
        description="What pretraining needs; recipes/pretrain_backbone.py pretrains.",
        example="haa-peft pretrain simulate --count 900 --out corpus",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    one = actions.add_parser(
        "simulate",
        help="simulate rooms; goes on where it was stopped",
        example="haa-peft pretrain simulate --count 900 --out corpus",
    )
    one.set_defaults(command=_simulate)
    one.add_argument("--count", type=int, required=True, help="of rooms")
    one.old_names = {"--rooms": "--count"}
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the corpus")
    one.add_argument("--seed", type=int, default=0, help="of the rooms (default: 0)")
    one.add_argument("--odd", action="store_true", help="rooms unlike any that is trained on, for evaluation")
    add_workers(one, "shards of 25 rooms", "one for each core")

    one = actions.add_parser(
        "card",
        help="write what a simulated corpus holds, as a page and a figure",
        example="haa-peft pretrain card corpus",
    )
    one.set_defaults(command=_card)
    one.add_argument("corpus", metavar="CORPUS", type=Path, help="folder that simulate wrote")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="of README.md and corpus.png (default: the corpus)")

    one = actions.add_parser(
        "evaluate",
        help="errors of a backbone in rooms that it has not seen",
        example="haa-peft pretrain evaluate corpus --backbone small --count 20",
    )
    one.set_defaults(command=_evaluate)
    about = "folder that simulate wrote with another seed than the training's, or AcousticRooms"
    one.add_argument("corpora", nargs="+", metavar="CORPUS", type=Path, help=about)
    one.add_argument("--count", type=int, help="rooms of each corpus, evenly spread (default: all)")
    one.old_names = {"--rooms": "--count"}
    one.add_argument("--k", type=int, nargs="+", default=[1, 4, 8], help="references for each target (default: 1 4 8)")
    add_seed_and_json(one, "of targets and references")
    add_backbone(one)
    add_phase(one)


def _simulate(args: argparse.Namespace) -> None:
    from haa_peft.simulation.corpus import simulate_corpus

    simulate_corpus(args.out, args.count, args.seed, args.workers, odd=args.odd, executor=args.executor)


def _card(args: argparse.Namespace) -> None:
    from haa_peft.simulation.corpus_card import write_card

    print(write_card(args.corpus, args.out or args.corpus))


def _evaluate(args: argparse.Namespace) -> None:
    from haa_peft.model.checkpoint import fingerprint, load_backbone
    from haa_peft.pretraining import evaluate_backbone
    from haa_peft.pretraining.unseen import unseen_table
    from haa_peft.pretraining.weights import provenance, seeds_seen

    check_report(args.json, "evaluate-backbone")
    backbone = load_backbone(args.backbone)
    made = provenance(args.backbone)
    trained_on = seeds_seen(made) if made.get("fingerprint") == fingerprint(backbone) else set()
    if not trained_on:
        print(f"note: no record of what {args.backbone} was pretrained on; it may have seen these rooms")
    reports = []
    for report in evaluate_backbone(
        backbone, args.corpora, trained_on=trained_on, count=args.count, ks=args.k, phase=args.phase, seed=args.seed
    ):
        unit, rows = report["unit"], report["rows"]
        print(
            f"\n{report['corpus']}: mean absolute errors at {rows[0]['positions']} positions of {report[unit]} "
            f"{unit}, and divided by those of nearest neighbour; "
            f"seed {args.seed}, phase of {args.phase}\n\n{unseen_table(rows)}\n"
        )
        reports.append(report)
    if args.json is not None:
        about_it = {"backbone": backbone.origin, "fingerprint": fingerprint(backbone), "seed": args.seed}
        print(write_report(args.json, "evaluate-backbone", {**about_it, "phase": args.phase, "corpora": reports}))
