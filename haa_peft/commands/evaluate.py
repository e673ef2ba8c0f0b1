"""``haa-peft evaluate``: errors of an adapter, the backbone and baselines at positions that were held out."""

from __future__ import annotations

import argparse
from typing import Any

from haa_peft.commands.options import (
    add_geometry,
    add_phase,
    add_room,
    add_seed_and_json,
    add_store,
    check_k,
    open_room,
)
from haa_peft.commands.outputs import check_report, write_report


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "evaluate",
        help="compare predictors at a room's held-out positions",
        description="Compare an adapter, the backbone and baselines at a room's held-out positions.",
        example="haa-peft evaluate classroom-twin/base --adapter classroom-twin/base --json report.json",
    )
    parser.set_defaults(command=_run)
    add_room(parser)
    parser.add_argument("--adapter", metavar="NAME", help="of a stored adapter (default: none)")
    parser.add_argument("--k", type=int, default=8, help="references for each target (default: 8)")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="default: test")
    add_seed_and_json(parser, "of a random phase")
    add_store(parser)
    add_geometry(parser)
    add_phase(parser)


def _run(args: argparse.Namespace) -> None:
    from haa_peft.commands.sentences import acceptance_of, began_with
    from haa_peft.commands.tables import report_table
    from haa_peft.evaluation.compare import Candidate, check_unseen, compare
    from haa_peft.evaluation.verdict import verdict
    from haa_peft.inference.packs import levels_of, load_pack
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.store.names import AdapterName, store_folder

    name = None if args.adapter is None else AdapterName.parse(args.adapter)
    check_report(args.json, "evaluate")
    room = open_room(args)
    check_k(args.k, room)
    backbone = load_backbone(args.backbone)
    pack = None if name is None else load_pack(store_folder(args.store), name, backbone)
    candidates = {}
    if pack is not None:
        check_unseen(pack, room, args.split)
        room = room.with_channels(pack.channels)
        training = pack.card["training"]
        acceptance = acceptance_of(training)
        unchanged = acceptance is not None and not acceptance.accepted
        facts = {"trainable_parameters": training["trainable_parameters"], "bytes": training["adapter_bytes"]}
        levels = levels_of(pack, room)
        facts["bytes"] += 0 if levels is None else levels.bytes
        unchanged = unchanged and levels is None
        candidates[str(name)] = Candidate(pack.config, pack.tensors, {**facts, "unchanged": unchanged}, levels)
    report = compare(room, backbone, candidates, args.k, args.seed, args.split, args.phase)
    print(report_table(report))
    if pack is not None:
        report["verdict"] = verdict(report, str(name), began_with(pack.card) if unchanged else None)
        print(f"\n{report['verdict']['line']}")
    if args.json is not None:
        about = {} if pack is None else {**pack.card["training"], "method": pack.card["method"]}
        print(write_report(args.json, "evaluate", {**report, "training": about}))
