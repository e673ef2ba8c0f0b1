"""From arguments to :func:`~haa_peft.main_job.adapt_room`, and to what is printed and stored."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from haa_peft.adapted_room import AdaptedRoom, compare_adapted
from haa_peft.adapters.combine import blend_adapters
from haa_peft.adapters.methods import MethodSettings
from haa_peft.commands.options import DEFAULT_ROOM
from haa_peft.commands.outputs import check_report, check_writable, write_report
from haa_peft.commands.sentences import fitted_levels, kept_weights
from haa_peft.commands.tables import report_table
from haa_peft.errors import InputError
from haa_peft.evaluation.compare import check_unseen
from haa_peft.geometry.channels import parse_channels
from haa_peft.inference.packs import load_pack
from haa_peft.main_job import adapt_room, check_one_beginning
from haa_peft.model.checkpoint import fingerprint, load_backbone
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import Room
from haa_peft.satellites import satellite
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.training.launch import start_accelerator
from haa_peft.training.loop import Adaptation
from haa_peft.training.settings import LEARNING_RATES, TrainingSettings


def run(args: argparse.Namespace) -> None:
    """Adapt to a room as the arguments say, print the account and store the adapter."""
    method, training = settings_of(args)
    room, first_stage = rooms_of(args)
    backbone = backbone_of(args)
    options = options_of(args, room)
    accelerator = accelerator_of(args, options["run_folder"])
    adapted = adapt_room(room, method, training, backbone=backbone, accelerator=accelerator,
                         first_stage=first_stage, **options)  # fmt: skip
    if accelerator.is_main_process:
        print(account(adapted, args))
        print(write(adapted, args))
    accelerator.end_training()


def settings_of(args: argparse.Namespace) -> tuple[MethodSettings, TrainingSettings]:
    """How a backbone is adapted, and how that is trained."""
    peft = {key: getattr(args, key) for key in ("rank", "alpha", "convolutions", "dropout") if key in args}
    method = MethodSettings(args.method, ranks=dict(getattr(args, "ranks", ())), freeze=args.freeze,
                            levels=args.levels, channels=args.channels, **peft)  # fmt: skip
    given = {field.name: getattr(args, field.name) for field in fields(TrainingSettings)}
    k = TrainingSettings().k if args.k is None else args.k
    augment = satellite("augmentation", "--augment").augmentation(args.augment) if args.augment else None
    return method, TrainingSettings(**{**given, "k": k, "augment": augment})


def rooms_of(args: argparse.Namespace) -> tuple[Room, list[Room]]:
    """The room, and those of a first stage.

    Raises
    ------
    InputError
        When both ``--start`` and ``--first-stage`` are given, or a room cannot be read.
    """
    check_one_beginning(args.start, args.first_stage)
    room = load_room(DEFAULT_ROOM if args.room is None else args.room, args.geometry, args.receiver)
    others = [load_room(folder, args.geometry if folder == args.room else None) for folder in args.first_stage]
    if args.shots is not None:  # no more of the room itself than is to be used
        room = room.with_shots(args.shots)
        others = [other.with_shots(args.shots) if other.name == room.name else other for other in others]
    room, *others = [one.with_channels(parse_channels(args.channels)) for one in (room, *others)]
    return room, others


def backbone_of(args: argparse.Namespace) -> XRIR:
    """The backbone; with ``--gradient-checkpointing`` it keeps no activations."""
    backbone = load_backbone(args.backbone)
    backbone.gradient_checkpointing = args.gradient_checkpointing
    return backbone


def options_of(args: argparse.Namespace, room: Room) -> dict[str, Any]:
    """All else that :func:`~haa_peft.main_job.adapt_room` is told; ``InputError`` where nothing can be written."""
    variant = args.method if args.method != "lora" else "trial" if args.room is None else None
    name = AdapterName.parse(args.name) if args.name else AdapterName(room.room, room.configuration, variant)
    run_folder = args.run_dir or Path("runs") / name.room / name.folder_name
    check_report(args.json, "finetune")
    check_writable(run_folder / "log.jsonl")
    check_writable(name.folder(store_folder(args.store)) / "card.json")
    keys = ("start", "on_top_of", "borrow", "store", "k", "resume", "allow_faults", "recordings")
    same = {key: getattr(args, key) for key in keys}
    return {"name": name, "run_folder": run_folder, **same}


def accelerator_of(args: argparse.Namespace, run_folder: Path) -> Accelerator:
    """All processes of the launch, with the trackers asked for; ``InputError`` where TensorBoard is not installed."""
    if not args.tensorboard:
        return start_accelerator(args.seed)
    if find_spec("tensorboard") is None:
        raise InputError('--tensorboard needs the package tensorboard; pip install "haa-peft[tensorboard]"')
    accelerator = start_accelerator(args.seed, log_with="tensorboard", project_dir=run_folder)
    accelerator.init_trackers("tensorboard")
    return accelerator


def account(adapted: AdaptedRoom, args: argparse.Namespace) -> str:
    """What is to be said of an adapter: layers that were frozen, errors, what was kept and why, the verdict."""
    found, report = adapted.adaptation, adapted.report
    parts = []
    if found.sensitivities:
        parts.append("\n" + satellite("sensitivity", "--freeze auto").sensitivity_table(found.sensitivities))
    table = "no test positions, so no test errors; measure at 14 or more, or give splits in room.json"
    parts.append("\n" + (report_table(report) if report["rows"] else table))
    how = f"{found.seconds:.0f} s of training: " if found.acceptance is not None else ""
    parts.append(f"\n{how}{'network ' if adapted.levels else ''}{kept_weights(adapted.card)}")
    if found.unchanged:
        parts.append(_advice(found))
    if adapted.levels is not None:
        parts.append(fitted_levels(adapted.card))
    if report["rows"]:
        parts.append(report["verdict"]["line"])
    return "\n".join(parts)


def _advice(adaptation: Adaptation) -> str:
    """What may help where validation refused what was found, in one line; of that only what was not done."""
    ways = ["more measurements"]
    if adaptation.training.caution > 0 and adaptation.acceptance is not None and adaptation.acceptance.gain > 0:
        ways.append("--caution 0 to take any gain (docs/methods.md says what that does)")
    return f"what may help: {'; '.join(ways)}"


def write(adapted: AdaptedRoom, args: argparse.Namespace, kind: str = "finetune") -> str:
    """Write the pack, and the report where ``--json`` says; what was written."""
    verb = "replaced" if adapted.name.folder(store_folder(args.store)).exists() else "stored"
    lines = [f"{verb} {adapted.name} in {adapted.write(args.store)}"]
    if args.json is not None:
        about = {**adapted.card["training"], "method": adapted.card["method"]}
        lines.append(write_report(args.json, kind, {**adapted.report, "training": about}))
    return "\n".join(lines)


def store_blend(
    args: argparse.Namespace, name: AdapterName, room: Room, backbone: XRIR, shares: Sequence[float]
) -> None:
    """Blend the stored adapters ``args.of``, compare on test positions, print the account and store the pack.

    Parameters
    ----------
    args : of the command line.
    name : of the new adapter.
    room : that the adapter is for; its training measurements are the references.
    backbone : with no adapter attached.
    shares : of the adapters, in their order.
    """
    store = store_folder(args.store)
    check_writable(name.folder(store) / "card.json")
    packs = [load_pack(store, AdapterName.parse(one), backbone) for one in args.of]
    for pack in packs:
        if pack.card["room"]["name"] == room.name:
            check_unseen(pack, room, "test")
        room = room.with_channels(pack.channels)
    config, tensors = blend_adapters(backbone, [(pack.config, pack.tensors) for pack in packs], shares)
    size = sum(tensor.numel() for tensor in tensors.values())
    method = MethodSettings("lora" if config["peft_type"] == "LORA" else "full")
    recipe = " + ".join(f"{share:g} {one}" for share, one in zip(shares, args.of, strict=True))
    training = TrainingSettings(
        k=args.k, seed=args.seed, lr=LEARNING_RATES[backbone.config.weighting][method.method], weight_decay=0.0
    )
    blended = Adaptation(method, training, config, tensors, fingerprint(backbone), size, 0, 0, [], 0.0,
                         started_from=recipe)  # fmt: skip
    levels = satellite("levels", "haa-peft adapters blend").fit_levels(backbone, room, args.k)
    report = compare_adapted(room, backbone, blended, str(name), "test", levels)
    adapted = AdaptedRoom(name, room, backbone, blended, report, levels)
    args.borrow = None
    print(account(adapted, args))
    print(write(adapted, args, "blend"))
