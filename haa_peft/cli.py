"""The ``haa-peft`` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from haa_peft.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run it; bad input gives one line and status 2."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="haa-peft", description="Per-room adapters for xRIR.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    evaluate = commands.add_parser("evaluate", help="compare predictors at a room's held-out positions")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("room", metavar="ROOM", help="room folder, HAA folder or twin (classroom-twin/base)")
    evaluate.add_argument("--adapter", help="name of a stored adapter")
    evaluate.add_argument("--k", type=int, default=8, help="references a target (default: 8)")
    evaluate.add_argument("--shots", type=int, help="measurements to use (default: all training positions)")
    evaluate.add_argument("--split", choices=("test", "valid"), default="test", help="default: test")
    evaluate.add_argument("--seed", type=int, default=0, help="of the waveform's phase (default: 0)")
    evaluate.add_argument("--json", type=Path, help="write the whole report here")

    render = commands.add_parser("render", help="write the RIR at a position as a WAV file")
    render.set_defaults(command=_render)
    render.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    render.add_argument("--position", type=float, nargs=3, required=True, metavar=("X", "Y", "Z"), help="m in the room")
    render.add_argument("--out", type=Path, required=True, help="WAV file, 22 050 Hz, 32-bit float")
    render.add_argument("--k", type=int, help="references to use (default: as in training)")
    render.add_argument("--seed", type=int, default=0, help="of the waveform's phase (default: 0)")

    adapters = commands.add_parser("adapters", help="list, show and verify stored adapters")
    adapters.set_defaults(command=_adapters)
    adapters.add_argument("action", choices=("list", "show", "verify"))
    adapters.add_argument("name", nargs="?", help="adapter; verify checks all unless given")
    for command in (evaluate, render, adapters):
        command.add_argument("--store", help="folder of adapters (default: $HAA_PEFT_STORE or ./adapters)")
        command.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")

    download = commands.add_parser("download", help="fetch measured rooms")
    download.set_defaults(command=_download)
    download.add_argument("dataset", choices=("haa",), help="Hearing Anything Anywhere, Zenodo record 11195833")
    download.add_argument(
        "configurations", nargs="*", metavar="CONFIGURATION", help="such as hallwayPanel1; all unless given"
    )
    download.add_argument("--out", type=Path, default=Path("haa"), help="folder (default: haa)")

    simulate = commands.add_parser("simulate", help="simulate rooms for pretraining; goes on where it was stopped")
    simulate.set_defaults(command=_simulate)
    simulate.add_argument("--rooms", type=int, required=True)
    simulate.add_argument("--out", type=Path, required=True, help="folder")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--workers", type=int, help="processes (default: all cores)")
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from haa_peft.backbone.checkpoint import fingerprint, load_backbone
    from haa_peft.evaluation.evaluate import baselines, evaluate
    from haa_peft.evaluation.report import report_table
    from haa_peft.files import write_json
    from haa_peft.inference.predict import References, predict_rirs
    from haa_peft.inference.predictor import attach_pack
    from haa_peft.rooms.load import load_room
    from haa_peft.store.folder import read_pack
    from haa_peft.store.names import AdapterName, store_folder

    name = None if args.adapter is None else AdapterName.parse(args.adapter)
    room = load_room(args.room)
    room = room if args.shots is None else room.with_shots(args.shots)
    shots = len(room.splits["train"])
    if not 1 <= args.k <= shots:
        raise InputError(f"--k is {args.k} but {room.name} has {shots} training measurements; give 1 to {shots}")
    pack = None if name is None else read_pack(store_folder(args.store), name)
    backbone = load_backbone(args.backbone)
    references = References.of_room(room)
    targets = room.positions[room.splits[args.split]] - room.receiver
    predictions = baselines(room, args.k, args.split)
    predictions["backbone"] = predict_rirs(backbone, references, targets, args.k, args.seed)
    facts = {}
    if pack is not None:
        attach_pack(backbone, fingerprint(backbone), pack)
        predictions[str(name)] = predict_rirs(backbone, references, targets, args.k, args.seed)
        training = pack.card["training"]
        facts[str(name)] = {
            "trainable_parameters": training["trainable_parameters"],
            "bytes": training["adapter_bytes"],
        }
    report = evaluate(room, predictions, k=args.k, seed=args.seed, split=args.split, facts=facts)
    print(report_table(report))
    if args.json is not None:
        training = {} if pack is None else {**pack.card["training"], "method": pack.card["method"]}
        write_json(args.json, {**report, "training": training})


def _render(args: argparse.Namespace) -> None:
    import numpy as np
    import soundfile

    from haa_peft.files import write_atomically
    from haa_peft.inference.predictor import RoomPredictor

    if args.out.suffix.lower() != ".wav":
        raise InputError(f"--out is {str(args.out)!r} but must end in .wav")
    predictor = RoomPredictor.load(args.name, store=args.store, backbone=args.backbone)
    rir = predictor.predict(np.array(args.position), k=args.k, seed=args.seed)[0] * predictor.scale
    write_atomically(
        args.out,
        lambda path: soundfile.write(path, rir, predictor.sample_rate, subtype="FLOAT", format="WAV"),
    )
    seconds = len(rir) / predictor.sample_rate
    print(f"{args.out}: {seconds:.3f} s at {args.position} in {predictor.name}, peak {abs(rir).max():.3g}")


def _adapters(args: argparse.Namespace) -> None:
    from haa_peft.backbone.checkpoint import fingerprint, load_backbone
    from haa_peft.evaluation.report import markdown
    from haa_peft.inference.predictor import attach_pack
    from haa_peft.store.folder import read_card, read_pack
    from haa_peft.store.names import AdapterName, list_names, store_folder

    store = store_folder(args.store)
    if args.action == "show":
        if args.name is None:
            raise InputError("adapters show needs a NAME; `haa-peft adapters list` gives them")
        print(json.dumps(read_card(store, AdapterName.parse(args.name)), indent=1))
        return
    names = [AdapterName.parse(args.name)] if args.name else list_names(store)
    if args.action == "list":
        cards = [read_card(store, name) for name in names]
        rows = [
            [
                card["name"],
                card["method"]["method"],
                str(card["training"]["trainable_parameters"]),
                str(card["training"]["adapter_bytes"]),
                f"{card['backbone']['origin']} {card['backbone']['fingerprint'][:12]}",
            ]
            for card in cards
        ]
        print(markdown([["adapter", "method", "weights", "bytes", "backbone"], *rows]))
        return
    backbone = load_backbone(args.backbone)
    base = fingerprint(backbone)
    failed = 0
    for name in names:
        try:
            attach_pack(backbone, base, read_pack(store, name)).detach()
            print(f"{name}: ok")
        except InputError as error:
            failed += 1
            print(f"{name}: FAILED: {error}")
    if failed:
        raise InputError(f"{failed} of {len(names)} adapters do not verify")


def _download(args: argparse.Namespace) -> None:
    from haa_peft.rooms.download import download_haa

    download_haa(args.configurations, args.out)


def _simulate(args: argparse.Namespace) -> None:
    from haa_peft.rooms.corpus import simulate_corpus

    simulate_corpus(args.out, args.rooms, args.seed, args.workers)


if __name__ == "__main__":
    main()
