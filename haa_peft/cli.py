"""The ``haa-peft`` command; each part of it imports what it needs."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from haa_peft.errors import InputError, check_seed, command
from haa_peft.files import check_report, check_writable, write_atomically, write_report
from haa_peft.model.phases import PHASES
from haa_peft.options import add_arguments, add_geometry, add_method

if TYPE_CHECKING:
    from haa_peft.store.pack import RoomPack


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run it; bad input gives one line and status 2."""
    args = _parser().parse_args(arguments)
    with command():
        args.command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="haa-peft", description="Per-room adapters for xRIR.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    evaluate = commands.add_parser("evaluate", help="compare predictors at a room's held-out positions")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("room", metavar="ROOM", help="room folder, HAA folder or twin (classroom-twin/base)")
    evaluate.add_argument("--adapter", help="name of a stored adapter")
    evaluate.add_argument("--k", type=int, default=8, help="references a target (default: 8)")
    evaluate.add_argument("--split", choices=("test", "valid"), default="test", help="default: test")
    evaluate.add_argument("--seed", type=int, default=0, help="of a random phase (default: 0)")
    evaluate.add_argument("--json", type=Path, help="write the whole report here")

    unseen = commands.add_parser("evaluate-backbone", help="errors of a backbone in rooms that it has not seen")
    unseen.set_defaults(command=_evaluate_backbone)
    about = "folder that simulate wrote with another seed than the training's, or AcousticRooms"
    unseen.add_argument("corpora", nargs="+", metavar="CORPUS", type=Path, help=about)
    unseen.add_argument("--rooms", type=int, help="of each corpus, evenly spread (default: all)")
    unseen.add_argument("--k", type=int, nargs="+", default=[1, 4, 8], help="references a target (default: 1 4 8)")
    unseen.add_argument("--seed", type=int, default=0, help="of targets and references (default: 0)")
    unseen.add_argument("--json", type=Path, help="write the whole report here")

    render = commands.add_parser("render", help="write the RIR at a position as a WAV file")
    render.set_defaults(command=_render)
    render.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    render.add_argument("--position", type=float, nargs=3, required=True, metavar=("X", "Y", "Z"), help="m in the room")
    render.add_argument("--out", type=Path, required=True, help="WAV file, 22 050 Hz, 32-bit float")
    render.add_argument("--k", type=int, help="references to use (default: as in training)")
    render.add_argument("--seed", type=int, default=0, help="of a random phase (default: 0)")

    identify = commands.add_parser("identify", help="rank stored adapters on a few measurements of a room")
    identify.set_defaults(command=_identify)
    identify.add_argument("--k", type=int, help="references a measurement (default: 8, or all others if fewer)")
    identify.add_argument("--json", type=Path, help="write the ranking here")

    finetune = commands.add_parser("finetune", help="adapt to a room by any method, in this process",
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    finetune.set_defaults(command=_finetune)
    add_method(finetune)
    add_arguments(finetune, None)

    blend = commands.add_parser("blend", help="store an adapter between others, such as a panel half open")
    blend.set_defaults(command=_blend)
    blend.add_argument("room", metavar="ROOM", help="whose measurements are its references, and which it is tested in")
    blend.add_argument("--of", nargs="+", required=True, metavar="NAME", help="stored adapters")
    blend.add_argument("--shares", nargs="+", type=float, metavar="SHARE", help="of each (default: equal, 1 together)")
    blend.add_argument("--name", help="adapter name (default: that of the room, @blend)")
    blend.add_argument("--shots", type=int, help="measurements to keep as references (default: all training positions)")
    blend.add_argument("--k", type=int, default=8, help="references a target (default: 8)")
    blend.add_argument("--seed", type=int, default=0, help="of a random phase (default: 0)")
    blend.add_argument("--json", type=Path, help="write the whole report here")

    adapters = commands.add_parser("adapters", help="list, show and verify stored adapters")
    adapters.set_defaults(command=_adapters)
    adapters.add_argument("action", choices=("list", "show", "verify"))
    adapters.add_argument("name", nargs="?", help="adapter; verify checks all unless given")
    geometry = commands.add_parser("geometry", help="say what a room's geometry is and how far to trust it; draw it")
    geometry.set_defaults(command=_geometry)
    geometry.add_argument("room", metavar="ROOM", help="room folder, HAA folder, twin or simulated/SEED-INDEX")
    geometry.add_argument("--png", type=Path, metavar="FILE", help="draw the depth panorama here")
    geometry.add_argument("--out", type=Path, metavar="FILE.npy", help="write it here, as a depth panorama to be given "
                          "as geometry")  # fmt: skip
    sound = commands.add_parser(
        "geometry-from-sound", help="estimate the box around a receiver from the echoes, and check the geometry given"
    )
    sound.set_defaults(command=_geometry_from_sound)
    sound.add_argument("--no-floor", action="store_true", help="z = 0 is not the floor (default: it probably is)")
    sound.add_argument("--json", type=Path, help="write everything here")
    for one in (identify, sound):
        one.add_argument("room", metavar="ROOM", help="room folder or name; its training positions count")
    for one in (evaluate, identify, sound):
        one.add_argument("--shots", type=int, help="measurements to use (default: all training positions)")
    for one in (evaluate, identify, blend, geometry, sound):
        add_geometry(one)
    for one in (evaluate, render, unseen):
        one.add_argument("--phase", choices=PHASES, default=PHASES[0], help="that a waveform starts from: the aligned "
                         "references', or a random one as published (default: references)")  # fmt: skip
    unseen.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")
    for one in (evaluate, render, identify, blend, adapters):
        one.add_argument("--store", help="folder of adapters (default: $HAA_PEFT_STORE or ./adapters)")
        one.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")

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
    simulate.add_argument("--odd", action="store_true", help="rooms unlike any that is trained on, for evaluation")
    simulate.add_argument("--workers", type=int, help="processes (default: all cores)")

    card = commands.add_parser("corpus-card", help="write what a simulated corpus holds, as a page and a figure")
    card.set_defaults(command=_corpus_card)
    card.add_argument("corpus", metavar="CORPUS", type=Path, help="folder that simulate wrote")
    card.add_argument("--out", type=Path, help="folder of README.md and corpus.png (default: the corpus)")
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from haa_peft.evaluation.compare import Candidate, check_unseen, compare
    from haa_peft.evaluation.verdict import verdict
    from haa_peft.inference.packs import attach_pack, load_pack
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.rooms.load import load_room
    from haa_peft.store.card import began_with
    from haa_peft.store.names import AdapterName, store_folder
    from haa_peft.tables import report_table
    from haa_peft.training.acceptance import Acceptance

    name = None if args.adapter is None else AdapterName.parse(args.adapter)
    check_report(args.json, "evaluate")
    room = load_room(args.room, args.geometry)
    room = room if args.shots is None else room.with_shots(args.shots)
    shots = len(room.splits["train"])
    if not 1 <= args.k <= shots:
        raise InputError(f"--k is {args.k} but {room.name} has {shots} training measurements; give 1 to {shots}")
    backbone = load_backbone(args.backbone)
    pack = None if name is None else load_pack(store_folder(args.store), name, backbone)
    candidates = {}
    if pack is not None:
        check_unseen(pack, room, args.split)
        room = room.with_channels(pack.channels)
        training = pack.card["training"]
        acceptance = Acceptance.of_card(training)
        unchanged = acceptance is not None and not acceptance.accepted
        facts = {"trainable_parameters": training["trainable_parameters"], "bytes": training["adapter_bytes"]}
        candidates[str(name)] = Candidate(lambda: attach_pack(backbone, pack), {**facts, "unchanged": unchanged})
    report = compare(room, backbone, candidates, args.k, args.seed, args.split, args.phase)
    print(report_table(report))
    if pack is not None:
        report["verdict"] = verdict(report, str(name), began_with(pack.card) if unchanged else None)
        print(f"\n{report['verdict']['line']}")
    if args.json is not None:
        about = {} if pack is None else {**pack.card["training"], "method": pack.card["method"]}
        print(write_report(args.json, "evaluate", {**report, "training": about}))


def _identify(args: argparse.Namespace) -> None:
    from haa_peft.evaluation.identify import BARE, fit_table, identify
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.rooms.load import load_room
    from haa_peft.store.names import store_folder

    check_report(args.json, "identify")
    room = load_room(args.room, args.geometry)
    room = room if args.shots is None else room.with_shots(args.shots)
    fits, left_out = identify(room, load_backbone(args.backbone), store_folder(args.store), args.k)
    print(f"{room.name}: {len(room.splits['train'])} measurements, each predicted from the others\n")
    print(fit_table(fits))
    for reason in left_out:
        print(f"left out: {reason}")
    if fits[0].adapter == BARE:
        print("no stored adapter predicts this room better than the bare backbone; train one")
    if args.json is not None:
        report = {"room": room.name, "fits": [fit._asdict() for fit in fits], "left_out": left_out}
        print(write_report(args.json, "identify", report))


def _geometry_from_sound(args: argparse.Namespace) -> None:
    from haa_peft.geometry.estimate.plausibility import check_surfaces
    from haa_peft.geometry.estimate.shoebox import estimate_shoebox
    from haa_peft.geometry.estimate.tables import sound_tables
    from haa_peft.geometry.sources import FEWEST_RIRS
    from haa_peft.rooms.load import load_room

    check_report(args.json, "geometry-from-sound")
    room = load_room(args.room, args.geometry)
    room = room if args.shots is None else room.with_shots(args.shots)
    train = room.splits["train"]
    if len(train) < FEWEST_RIRS:
        raise InputError(f"{room.name} has {len(train)} training measurements but echoes need {FEWEST_RIRS}")
    measured = room.rirs[train], room.positions[train], room.receiver
    estimate = estimate_shoebox(*measured, floor=None if args.no_floor else 0.0)
    check = None if room.surfaces is None else check_surfaces(*measured, room.surfaces, estimate)
    print(f"{room.name}: {estimate.account()}\n\n{sound_tables(estimate, check, room.surfaces)}")
    if check is None:
        print("the room has no planes that echoes could contradict")
    else:
        for sentence in check.contradictions:
            print(f"contradiction: {sentence}")
        if not check.contradictions:
            print("no echo contradicts the surfaces given")
    if args.json is not None:
        given = None if check is None else check.to_json()
        print(write_report(args.json, "geometry-from-sound", {"room": room.name, **estimate.to_json(), "given": given}))


def _geometry(args: argparse.Namespace) -> None:
    from haa_peft.geometry.estimate.account import account, check_drawing, draw_depth, write_depth
    from haa_peft.rooms.load import load_room

    for path in (args.png, args.out):
        if path is not None:
            check_writable(path)
    check_drawing(args.png, args.out)
    room = load_room(args.room, args.geometry)
    print("\n".join(account(room)))
    if args.png is not None:
        draw_depth(room, args.png)
    if args.out is not None:
        write_depth(room, args.out)


def _finetune(args: argparse.Namespace) -> None:
    from haa_peft.finetune import finetune

    finetune(args)


def _blend(args: argparse.Namespace) -> None:
    from haa_peft.finetune import store_blend
    from haa_peft.model.checkpoint import load_backbone
    from haa_peft.rooms.load import load_room
    from haa_peft.store.names import AdapterName

    check_report(args.json, "blend")
    shares = args.shares or [1 / len(args.of)] * len(args.of)
    room = load_room(args.room, args.geometry)
    room = room if args.shots is None else room.with_shots(args.shots)
    if not 1 <= args.k <= len(room.splits["train"]):
        raise InputError(f"--k is {args.k} but {room.name} has {len(room.splits['train'])} measurements")
    name = AdapterName.parse(args.name or f"{room.room}/{room.configuration}@blend")
    backbone = load_backbone(args.backbone)
    store_blend(args, name, room, backbone, shares)


def _evaluate_backbone(args: argparse.Namespace) -> None:
    import numpy as np
    import torch
    from tqdm import tqdm

    from haa_peft.model.checkpoint import fingerprint, load_backbone, provenance, seeds_seen
    from haa_peft.pretraining.unseen import evaluate_unseen, open_unseen, unseen_table
    from haa_peft.simulation.draw import SOURCES_PER_ROOM

    check_report(args.json, "evaluate-backbone")
    for k in args.k:
        if not 1 <= k < SOURCES_PER_ROOM:
            raise InputError(f"--k is {k} but must be from 1 to {SOURCES_PER_ROOM - 1}")
    if args.rooms is not None and args.rooms < 1:
        raise InputError(f"--rooms is {args.rooms} but must be at least 1")
    check_seed(args.seed)
    backbone = load_backbone(args.backbone)
    made = provenance(args.backbone)
    trained_on = seeds_seen(made) if made.get("fingerprint") == fingerprint(backbone) else set()
    if not trained_on:
        print(f"note: no record of what {args.backbone} was pretrained on; it may have seen these rooms")
    opened = [open_unseen(folder, trained_on) for folder in args.corpora]
    reports = []
    for rooms, about in opened:
        count = min(len(rooms), args.rooms or len(rooms))
        spread = np.linspace(0, len(rooms) - 1, count).round().astype(int).tolist()
        numbered = ((i, rooms[i]) for i in tqdm(spread, desc=f"{about['corpus']} {about['unit']}"))
        rows = evaluate_unseen(
            backbone, numbered, lambda _, room: torch.from_numpy(room.panorama()), ks=args.k, phase=args.phase,
            seed=args.seed,
        )  # fmt: skip
        reports.append({**about, about["unit"]: count, "rows": rows})
        print(
            f"\n{about['corpus']}: mean absolute errors at {rows[0]['positions']} positions of {count} "
            f"{about['unit']}, and divided by those of nearest neighbour; "
            f"seed {args.seed}, phase of {args.phase}\n\n{unseen_table(rows)}\n"
        )
    if args.json is not None:
        about_it = {"backbone": backbone.origin, "fingerprint": fingerprint(backbone), "seed": args.seed}
        print(write_report(args.json, "evaluate-backbone", {**about_it, "phase": args.phase, "corpora": reports}))


def _render(args: argparse.Namespace) -> None:
    import numpy as np
    import soundfile

    from haa_peft.inference.predictor import RoomPredictor

    if args.out.suffix.lower() != ".wav":
        raise InputError(f"--out is {str(args.out)!r} but must end in .wav")
    predictor = RoomPredictor.load(args.name, store=args.store, backbone=args.backbone, phase=args.phase)
    rir = predictor.predict(np.array(args.position), k=args.k, seed=args.seed)[0] * predictor.scale
    wav = io.BytesIO()
    soundfile.write(wav, rir, predictor.sample_rate, subtype="FLOAT", format="WAV")
    write_atomically(args.out, wav.getvalue())
    seconds = len(rir) / predictor.sample_rate
    print(f"{args.out}: {seconds:.3f} s at {args.position} in {predictor.name}, peak {abs(rir).max():.3g}")


def _adapters(args: argparse.Namespace) -> None:
    from haa_peft.store.card import kept_weights
    from haa_peft.store.folder import read_pack
    from haa_peft.store.names import AdapterName, list_names, store_folder
    from haa_peft.tables import markdown

    store = store_folder(args.store)
    if args.action == "show":
        if args.name is None:
            raise InputError("adapters show needs a NAME; `haa-peft adapters list` gives them")
        print(json.dumps(read_pack(store, AdapterName.parse(args.name), tensors=False).card, indent=1))
        return
    names = [AdapterName.parse(args.name)] if args.name else list_names(store)
    verify = _verifier(args.backbone, store) if args.action == "verify" else None
    rows, failed = [["adapter", "method", "weights", "bytes", "backbone", "training"]], 0
    for name in names:
        try:
            pack = read_pack(store, name, tensors=verify is not None)
            if verify is not None:
                verify(pack)
                print(f"{name}: ok")
            made, training = pack.card["backbone"], pack.card["training"]
            weights, size = training["trainable_parameters"], training["adapter_bytes"]
            method = pack.card["method"]["method"]
            of = f"{made['origin']} {made['fingerprint'][:12]}"
            rows.append([str(name), method, str(weights), str(size), of, kept_weights(pack.card)])
        except InputError as error:
            failed += 1
            if verify is not None:
                print(f"FAILED {error}")
            rows.append([str(name), "damaged", "-", "-", "-", "-"])
    if args.action == "list":
        print(markdown(rows))
    if failed:
        raise InputError(f"{failed} of {len(names)} adapters cannot be used; `haa-peft adapters verify` says why")


def _verifier(backbone: str, store: Path) -> Callable[[RoomPack], None]:
    from haa_peft.inference.packs import verify_pack
    from haa_peft.model.checkpoint import load_backbone

    loaded = load_backbone(backbone)
    return lambda pack: verify_pack(loaded, pack, store)


def _download(args: argparse.Namespace) -> None:
    from haa_peft.downloads import download

    download(args.dataset, args.configurations, args.out)


def _simulate(args: argparse.Namespace) -> None:
    from haa_peft.simulation.corpus import simulate_corpus

    simulate_corpus(args.out, args.rooms, args.seed, args.workers, odd=args.odd)


def _corpus_card(args: argparse.Namespace) -> None:
    from haa_peft.simulation.corpus_card import write_card

    print(write_card(args.corpus, args.out or args.corpus))


if __name__ == "__main__":
    main()
