"""The main job, for every method: load a room, adapt the backbone, compare on test positions, store the pack."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from haa_peft.adaptation.methods import MethodSettings, attach_stored
from haa_peft.backbone.checkpoint import load_backbone
from haa_peft.backbone.xrir import XRIR
from haa_peft.errors import InputError, command
from haa_peft.evaluation.compare import Candidate, compare
from haa_peft.evaluation.evaluate import report_head
from haa_peft.evaluation.report import report_table
from haa_peft.files import check_writable, write_json
from haa_peft.inference.packs import prepare_pack
from haa_peft.rooms.load import load_room
from haa_peft.rooms.room import Room
from haa_peft.store.card import make_card
from haa_peft.store.folder import write_pack
from haa_peft.store.names import STORE_VARIABLE, AdapterName, store_folder
from haa_peft.store.pack import RoomPack
from haa_peft.training.adapt import LEARNING_RATES, Adaptation, TrainingSettings, adapt
from haa_peft.training.launch import start_accelerator
from haa_peft.training.objective import check_k

DEFAULT_ROOM = "classroom-twin/base"


def parse_arguments(method: str, description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the fine-tuning recipes."""
    training = TrainingSettings()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", help=f"room folder, HAA folder or twin (default: {DEFAULT_ROOM})")
    parser.add_argument("--name", help="adapter name; room/configuration of the room unless given, @METHOD behind it "
                        "if the method is not lora; @trial without --room")  # fmt: skip
    parser.add_argument("--store", help=f"folder of adapters (default: ${STORE_VARIABLE} or ./adapters)")
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: %(default)s)")
    if method == "lora":
        parser.add_argument("--rank", type=int, default=4, help="of LoRA (default: %(default)s)")
        parser.add_argument("--alpha", type=float, help="of LoRA (default: twice the rank)")
    parser.add_argument("--k", type=int, default=training.k, help="references a target (default: %(default)s)")
    parser.add_argument("--shots", type=int, help="measurements to use (default: all training positions, 12)")
    parser.add_argument("--seed", type=int, default=training.seed, help="of everything (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=training.max_steps, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help=f"peak learning rate (default: {LEARNING_RATES[method]})")
    parser.add_argument("--weight-decay", type=float, default=training.weight_decay, help="default: %(default)s")
    parser.add_argument("--audible-decay", type=float, default=training.audible_decay, help="weight of the decay "
                        "curves' audible part beside the published loss (default: %(default)s)")  # fmt: skip
    parser.add_argument("--warmup", type=int, default=training.warmup, help="steps (default: %(default)s)")
    parser.add_argument("--validate-every", type=int, default=training.validate_every, help="steps (%(default)s)")
    parser.add_argument("--patience", type=int, default=training.patience, help="validations (default: %(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="keep no activations inside the encoders but "
                        "compute them again: half the memory or less, a third more time")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the whole report here")
    parser.add_argument("--run-dir", type=Path, help="log and checkpoint (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder")
    parser.add_argument("--tensorboard", action="store_true", help="log to the run folder for tensorboard too")
    args = parser.parse_args(arguments)
    args.method = method
    return args


def run(method: str, description: str, arguments: Sequence[str] | None = None) -> None:
    """Entry point of the fine-tuning recipes: one line on bad input, a hint on interruption."""
    args = parse_arguments(method, description, arguments)
    with command("once training has begun, the same command with --resume goes on"):
        finetune(args)


def finetune(args: argparse.Namespace) -> None:
    """Adapt, evaluate and store as the arguments say."""
    method = MethodSettings(args.method, *_lora_settings(args))
    training = TrainingSettings(
        args.max_steps,
        args.lr,
        args.weight_decay,
        args.warmup,
        args.k,
        args.validate_every,
        args.patience,
        args.seed,
        args.audible_decay,
    )
    if args.json is not None:
        check_writable(args.json)
    if args.tensorboard and find_spec("tensorboard") is None:
        raise InputError('--tensorboard needs the package tensorboard; pip install "haa-peft[tensorboard]"')
    # before the processes meet, so that what is wrong is said once and none waits for the other; two processes that
    # need a twin both make it, which ends well
    room = load_room(DEFAULT_ROOM if args.room is None else args.room)
    room = room if args.shots is None else room.with_shots(args.shots)
    check_k(args.k, len(room.splits["train"]), room.name)
    name = _adapter_name(args, room)
    run_folder = args.run_dir or Path("runs") / name.room / name.folder_name
    check_writable(run_folder / "log.jsonl")
    check_writable(name.folder(store_folder(args.store)) / "card.json")
    trackers = {"log_with": "tensorboard", "project_dir": run_folder} if args.tensorboard else {}
    backbone = load_backbone(args.backbone)
    accelerator = start_accelerator(args.seed, **trackers)
    backbone = backbone.to(accelerator.device)
    backbone.checkpointing = args.checkpointing
    if args.tensorboard:
        accelerator.init_trackers("tensorboard")
    if accelerator.is_main_process:
        valid = len(room.splits["valid"])
        precision = "" if accelerator.mixed_precision == "no" else f", {accelerator.mixed_precision}"
        print(
            f"{room.name}: {len(room.splits['train'])} measurements train, {valid} validate, "
            f"{len(room.splits['test'])} test; {args.method} on {args.backbone}, "
            f"{accelerator.num_processes} process(es){precision}"
        )
        if not valid:
            print("no validation positions: the training positions, each predicted from the others, choose the weights")
    adaptation = adapt(backbone, room, method, training, accelerator, run_folder, resume=args.resume)
    if accelerator.is_main_process:
        _finish(args, name, room, backbone, adaptation)
    accelerator.end_training()


def _lora_settings(args: argparse.Namespace) -> tuple[int, float] | tuple[()]:
    if args.method != "lora":
        return ()
    return args.rank, 2.0 * args.rank if args.alpha is None else args.alpha


def _adapter_name(args: argparse.Namespace, room: Room) -> AdapterName:
    if args.name is not None:
        return AdapterName.parse(args.name)
    variant = "trial" if args.room is None else None
    if args.method != "lora":
        variant = args.method
    return AdapterName(room.room, room.configuration, variant)


def _finish(
    args: argparse.Namespace,
    name: AdapterName,
    room: Room,
    backbone: XRIR,
    adaptation: Adaptation,
) -> None:
    """Compare on test positions, print the table, store the pack."""
    if len(room.splits["test"]):
        report = compare(room, backbone, {str(name): candidate(backbone, adaptation)}, args.k, args.seed)
        print("\n" + report_table(report))
        summary = {key: value for key, value in report.items() if key != "position_indices"}
        dropped = ("per_position", "iso", "iso_defined")
        summary["rows"] = [{k: v for k, v in row.items() if k not in dropped} for row in report["rows"]]
    else:
        print("\nno test positions, so no test errors; measure at 14 or more, or give splits in room.json")
        report, summary = report_head(room, "test", args.k, args.seed), None
    card = make_card(adaptation, room, backbone.origin, summary)
    pack = prepare_pack(backbone, RoomPack.of_room(name, room, adaptation.config, adaptation.tensors, card))
    verb = "replaced" if name.folder(store_folder(args.store)).exists() else "stored"
    folder = write_pack(store_folder(args.store), pack)
    kept = f"step {adaptation.best_step} of {adaptation.steps}"
    print(f"\n{adaptation.seconds:.0f} s of training, weights of {kept}; {verb} {name} in {folder}")
    if adaptation.best_step == 0:
        print("note: no step lowered the validation loss, so this adapter is the backbone unchanged; try a lower --lr")
    if args.json is not None:
        write_json(args.json, {**report, "training": {**card["training"], "method": card["method"]}})


def candidate(backbone: XRIR, adaptation: Adaptation) -> Candidate:
    """A trained adapter, ready to be compared."""
    return Candidate(
        lambda: attach_stored(backbone, adaptation.config, adaptation.tensors),
        {
            "trainable_parameters": adaptation.trainable_parameters,
            "bytes": adaptation.adapter_bytes,
            "seconds": round(adaptation.seconds, 1),
        },
    )
