"""The main job, for every method: load a room, adapt the backbone, compare on test positions, store the pack."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from haa_peft.adapters.combine import blend
from haa_peft.adapters.methods import MethodSettings, attach_stored, merged
from haa_peft.errors import InputError
from haa_peft.evaluation.compare import Candidate, check_unseen, compare
from haa_peft.evaluation.evaluate import report_head
from haa_peft.evaluation.verdict import verdict
from haa_peft.files import check_report, check_writable, write_report
from haa_peft.geometry.channels import parse_channels
from haa_peft.inference.packs import load_pack, prepare_pack
from haa_peft.model.checkpoint import fingerprint, load_backbone
from haa_peft.model.xrir import XRIR
from haa_peft.options import DEFAULT_ROOM
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import Room
from haa_peft.satellites import satellite
from haa_peft.store.card import began_with, kept_weights, make_card
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.store.pack import RoomPack
from haa_peft.tables import report_table
from haa_peft.training.adapt import Adaptation, Start, adapt
from haa_peft.training.borrow import borrow_if_better
from haa_peft.training.folds import measurements_validate
from haa_peft.training.launch import start_accelerator
from haa_peft.training.objective import check_k
from haa_peft.training.sensitivity import sensitivity_table
from haa_peft.training.settings import LEARNING_RATES, TrainingSettings

ANY_GAIN = (
    "--caution 0 to take any gain (errors in % of the backbone's with --caution 2, 1, 0: 91, 88, 88 in "
    "reconstructions, 100, 101, 102 in R3VIVAL, 80, 75, 74 in other rooms; over 5 % worse in 1, 2, 2 of 42 runs)"
)
"""Measured in 14 reconstructions, 8 configurations of R3VIVAL and 14 measured rooms of other people."""


def finetune(args: argparse.Namespace) -> None:
    """Adapt, evaluate and store as the arguments say."""
    peft = {key: getattr(args, key) for key in ("rank", "alpha", "convolutions", "dropout") if key in args}
    method = MethodSettings(args.method, ranks=dict(getattr(args, "ranks", ())), freeze=args.freeze,
                            channels=args.channels, **peft)  # fmt: skip
    augment = satellite("augmentation", "--augment").augmentation(args.augment) if args.augment else None
    if args.start and args.first_stage:
        raise InputError("--start and --first-stage are two beginnings; give one of them")
    check_report(args.json, "finetune")
    if args.tensorboard and find_spec("tensorboard") is None:
        raise InputError('--tensorboard needs the package tensorboard; pip install "haa-peft[tensorboard]"')
    # before the processes meet, so that what is wrong is said once and none waits for the other; two processes that
    # need a twin both make it, which ends well
    room = load_room(DEFAULT_ROOM if args.room is None else args.room, args.geometry)
    room = room if args.shots is None else room.with_shots(args.shots)
    others = [load_room(folder, args.geometry if folder == args.room else None) for folder in args.first_stage]
    room, *others = [one.with_channels(parse_channels(args.channels)) for one in (room, *others)]
    if augment is not None:
        for one in (room, *others):
            augment.check(one)
    if args.shots is not None:  # no more of the room itself than is to be used
        others = [other.with_shots(args.shots) if other.name == room.name else other for other in others]
    original = load_backbone(args.backbone)
    room = room if args.borrow is None else _borrow(args, room, original)
    shots = len(room.splits["train"])
    k = min(TrainingSettings().k, max(1, shots - 1)) if args.k is None else args.k
    check_k(k, shots, room.name)
    given = {field.name: getattr(args, field.name) for field in fields(TrainingSettings)}
    training = TrainingSettings(**{**given, "k": k, "augment": augment})
    name = _adapter_name(args, room)
    run_folder = args.run_dir or Path("runs") / name.room / name.folder_name
    check_writable(run_folder / "log.jsonl")
    check_writable(name.folder(store_folder(args.store)) / "card.json")
    trackers = {"log_with": "tensorboard", "project_dir": run_folder} if args.tensorboard else {}
    start = parent = None
    backbone = original
    leaves_out = measurements_validate([room], args.validation)
    if args.start is not None:
        pack = _load_unseen(args, args.start, room, original)
        _check_left_out(leaves_out, room, "--start", pack.card["room"]["name"])
        start = Start(args.start, pack.config, pack.tensors)
        if args.channels == "none":
            method = dataclasses.replace(method, channels=",".join(pack.channels) or "none")
        room = room.with_channels(pack.channels)
    for other in others:
        _check_left_out(leaves_out, room, "--first-stage", other.name)
    if args.on_top_of is not None:
        if args.on_top_of == str(name):
            raise InputError(f"--on-top-of {name} is what would be replaced; give the new adapter another --name")
        parent = _load_unseen(args, args.on_top_of, room, original)
        _check_left_out(leaves_out, room, "--on-top-of", parent.card["room"]["name"])
        if "beft" in (args.method, str(parent.config.get("peft_type")).lower()):
            raise InputError("beft adds biases and cannot lie on another adapter, nor below one; choose another method")
        backbone = merged(original, parent.config, parent.tensors)
        room = room.with_channels(parent.channels)
    others = [other.with_channels(room.channels) for other in others]
    accelerator = start_accelerator(args.seed, **trackers)
    backbone = backbone.to(accelerator.device)
    backbone.checkpointing = args.checkpointing
    if args.tensorboard:
        accelerator.init_trackers("tensorboard")
    if accelerator.is_main_process:
        valid = len(room.splits["valid"])
        if room.borrowed:
            print(f"{room.borrowed} more measurements are {args.borrow}'s, converted to {room.name}")
        elif args.borrow is not None:
            print(f"note: measurements of {args.borrow}, converted, make predictions no better; none is borrowed")
        precision = "" if accelerator.mixed_precision == "no" else f", {accelerator.mixed_precision}"
        print(
            f"{room.name}: {len(room.own)} measurements train, {valid} validate, "
            f"{len(room.splits['test'])} test; {args.method} on {args.backbone}, "
            f"{accelerator.num_processes} process(es){precision}"
        )
        if leaves_out:
            own = len(room.own)
            print(f"{own} measurements choose the weights, each left out once: {own} runs before the last one")
    resume = args.resume
    if others:
        folder = run_folder / "first-stage"
        begun = [
            (place / "checkpoint.pt").exists() or (place / "fold-0.json").exists() for place in (folder, run_folder)
        ]
        first = adapt(backbone, others, method, training, accelerator, folder, resume=resume and begun[0])
        resume = resume and begun[1]
        start = Start("first stage: " + ", ".join(other.name for other in others), first.config, first.tensors)
    adaptation = adapt(backbone, room, method, training, accelerator, run_folder, start=start, resume=resume)
    if accelerator.is_main_process:
        if adaptation.sensitivities:
            print("\n" + sensitivity_table(adaptation.sensitivities))
        _finish(args, "finetune", k, name, room, backbone, original, parent, adaptation)
    accelerator.end_training()


def _borrow(args: argparse.Namespace, room: Room, backbone: XRIR) -> Room:
    """The room with the references of a stored adapter, converted, if they lower the backbone's loss."""
    pack = load_pack(store_folder(args.store), AdapterName.parse(args.borrow), backbone)
    k = TrainingSettings().k if args.k is None else args.k
    decay, validation = args.audible_decay, args.validation
    return borrow_if_better(room, pack.as_room(), backbone, k, audible_decay=decay, validation=validation)


def _load_unseen(args: argparse.Namespace, name: str, room: Room, backbone: XRIR) -> RoomPack:
    """A stored adapter that training begins with; it must not have been trained where the room is tested."""
    pack = load_pack(store_folder(args.store), AdapterName.parse(name), backbone)
    if pack.card["room"]["name"] == room.name:
        check_unseen(pack, room, "test")
    return pack


def _check_left_out(leaves_out: bool, room: Room, flag: str, trained_on: str) -> None:
    """A measurement that is left out must not have been seen before."""
    if leaves_out and trained_on == room.name:
        raise InputError(
            f"{flag} has seen all measurements of {room.name}, so leaving them out tells nothing; "
            "give validation positions, or begin elsewhere"
        )


def _adapter_name(args: argparse.Namespace, room: Room) -> AdapterName:
    if args.name is not None:
        return AdapterName.parse(args.name)
    variant = "trial" if args.room is None else None
    if args.method != "lora":
        variant = args.method
    return AdapterName(room.room, room.configuration, variant)


def _finish(
    args: argparse.Namespace,
    kind: str,
    k: int,
    name: AdapterName,
    room: Room,
    backbone: XRIR,
    original: XRIR,
    parent: RoomPack | None,
    adaptation: Adaptation,
) -> None:
    """Compare on test positions and store the pack; print the table, what was kept and why, and the verdict."""
    store = store_folder(args.store)
    below = None if parent is None else (str(parent.name), read_pack(store, parent.name).adapter_digest())
    card = make_card(adaptation, room, original.origin, None, made_for=fingerprint(original), parent=below)
    if len(room.splits["test"]):
        report = compare(room, backbone, {str(name): candidate(backbone, adaptation)}, k, args.seed)
        report["verdict"] = verdict(report, str(name), began_with(card) if adaptation.unchanged else None)
        print("\n" + report_table(report))
        dropped = ("per_position", "iso", "iso_defined")
        rows = [{k: v for k, v in row.items() if k not in dropped} for row in report["rows"]]
        card["evaluation"] = {**report, "rows": rows}
        del card["evaluation"]["position_indices"]
    else:
        print("\nno test positions, so no test errors; measure at 14 or more, or give splits in room.json")
        report = report_head(room, "test", k, args.seed)
    pack = RoomPack.of_room(name, room, adaptation.config, adaptation.tensors, card)
    pack = prepare_pack(original.to(backbone.device), pack, parent)
    verb = "replaced" if name.folder(store).exists() else "stored"
    folder = write_pack(store, pack)
    how = f"{adaptation.seconds:.0f} s of training: " if adaptation.acceptance is not None else ""
    print(f"\n{how}{kept_weights(card)}")
    if adaptation.unchanged:
        print(_advice(args, adaptation))
    if report["rows"]:
        print(report["verdict"]["line"])
    print(f"{verb} {name} in {folder}")
    if args.json is not None:
        about = {**card["training"], "method": card["method"]}
        print(write_report(args.json, kind, {**report, "training": about}))


def _advice(args: argparse.Namespace, adaptation: Adaptation) -> str:
    """What may help where validation refused what was found, in one line; of that only what was not done."""
    ways = ["more measurements"]
    if args.borrow is None:
        ways.append("--borrow NAME (another configuration's)")
    if adaptation.training.caution > 0 and adaptation.acceptance is not None and adaptation.acceptance.gain > 0:
        ways.append(ANY_GAIN)
    return f"what may help: {'; '.join(ways)}"


def store_blend(
    args: argparse.Namespace, name: AdapterName, room: Room, backbone: XRIR, shares: Sequence[float]
) -> None:
    """Blend the stored adapters ``args.of``, compare on test positions, print the table and store the pack."""
    store = store_folder(args.store)
    check_writable(name.folder(store) / "card.json")
    packs = [_load_unseen(args, one, room, backbone) for one in args.of]
    room = room.with_channels([channel for pack in packs for channel in pack.channels])
    config, tensors = blend(backbone, [(pack.config, pack.tensors) for pack in packs], shares)
    size = sum(tensor.numel() for tensor in tensors.values())
    method = MethodSettings("lora" if config["peft_type"] == "LORA" else "full")
    recipe = " + ".join(f"{share:g} {one}" for share, one in zip(shares, args.of, strict=True))
    training = TrainingSettings(k=args.k, seed=args.seed, lr=LEARNING_RATES[method.method], weight_decay=0.0)
    blended = Adaptation(method, training, config, tensors, fingerprint(backbone), size, 0, 0, [], 0.0,
                         started_from=recipe)  # fmt: skip
    _finish(args, "blend", args.k, name, room, backbone, backbone, None, blended)


def candidate(backbone: XRIR, adaptation: Adaptation) -> Candidate:
    """A trained adapter, ready to be compared."""
    return Candidate(
        lambda: attach_stored(backbone, adaptation.config, adaptation.tensors),
        {
            "trainable_parameters": adaptation.trainable_parameters,
            "bytes": adaptation.adapter_bytes,
            "seconds": round(adaptation.seconds, 1),
            "unchanged": adaptation.unchanged,
        },
    )
