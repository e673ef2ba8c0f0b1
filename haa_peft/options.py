"""Options of fine-tuning, for the command and the recipes; needs no torch until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from haa_peft.adapters.kinds import DELTA_METHODS, KINDS, METHODS, PEFT_METHODS
from haa_peft.errors import command
from haa_peft.store.names import STORE_VARIABLE
from haa_peft.training.settings import DECAY, LEARNING_RATES, VALIDATIONS, WEIGHT_DECAYS, TrainingSettings

DEFAULT_ROOM = "classroom-twin/base"
IF_INTERRUPTED = "once training has begun, the same command with --resume goes on"


def parse_arguments(method: str | None, description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the fine-tuning recipes; with no method given, ``--method`` names it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if method is None:
        add_method(parser)
    else:
        parser.set_defaults(method=method)
    add_arguments(parser, method)
    return parser.parse_args(arguments)


def add_method(parser: argparse.ArgumentParser) -> None:
    """``--method``, and what each is."""
    about = "\n".join(f"  {name}: {what}" for name, what in {**PEFT_METHODS, **DELTA_METHODS}.items())
    parser.epilog = f"methods:\n{about}"
    parser.add_argument("--method", choices=METHODS, default="lora", help="default: %(default)s")


def add_arguments(parser: argparse.ArgumentParser, method: str | None) -> None:
    """What to adapt to, how, and where to; options that a given method does not have are left out."""
    training, kind = TrainingSettings, KINDS.get(method or "lora")
    parser.add_argument("--room", help=f"room folder, HAA folder or twin (default: {DEFAULT_ROOM})")
    add_geometry(parser)
    parser.add_argument("--name", help="adapter name; room/configuration of the room unless given, @METHOD behind it "
                        "if the method is not lora; @trial without --room")  # fmt: skip
    parser.add_argument("--store", help=f"folder of adapters (default: ${STORE_VARIABLE} or ./adapters)")
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: %(default)s)")
    parser.add_argument("--start", metavar="NAME", help="go on from this stored adapter (warm start)")
    parser.add_argument(
        "--on-top-of", metavar="NAME", help="leave this stored adapter as it is, and add a second one to it"
    )
    parser.add_argument("--borrow", metavar="NAME", help="add the measurements of this stored adapter, of another "
                        "configuration of the room, converted to this one, if that is better")  # fmt: skip
    parser.add_argument("--first-stage", nargs="+", metavar="ROOM", default=[], help="adapt to all of these together "
                        "first, and go on from there")  # fmt: skip
    if kind is not None:
        parser.add_argument("--rank", type=int, default=4, help="of the updates (default: %(default)s)")
        parser.add_argument("--alpha", type=float, help="scales the updates by ALPHA / RANK (default: twice the rank)")
        parser.add_argument("--ranks", nargs="+", type=_rank, default=[], metavar="LAYER=RANK", help="other ranks of "
                            "layers whose names begin so, 0 for none (energy_blend=8)")  # fmt: skip
        parser.add_argument("--convolutions", action="store_true", help="adapt convolutions too")
        parser.add_argument("--dropout", type=float, default=0.0, help="before the updates (default: %(default)s)")
    parser.add_argument("--freeze", default="none", metavar="WHICH", help="layers left alone: early:N, late:N, "
                        "none, or auto, which measures what serves the simulation (default: %(default)s)")  # fmt: skip
    parser.add_argument("--channels", default="none", metavar="WHICH", help="what the network is to read of surfaces "
                        "beside their coordinates: normals, materials, or normals,materials; materials where planes "
                        "or a mesh have them (default: %(default)s)")  # fmt: skip
    parser.add_argument("--k", type=int, help=f"references a target (default: {training.k}, or all others if fewer)")
    parser.add_argument("--shots", type=int, help="measurements to use (default: all training positions, 12)")
    parser.add_argument("--seed", type=int, default=training.seed, help="of everything (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=training.max_steps, help="default: %(default)s")
    rate = "the method's" if method is None else LEARNING_RATES[method]
    parser.add_argument("--lr", type=float, help=f"peak learning rate (default: {rate})")
    decay = "the method's" if method is None else WEIGHT_DECAYS.get(method, DECAY)
    parser.add_argument("--weight-decay", type=float, help=f"default: {decay}")
    parser.add_argument("--audible-decay", type=float, default=training.audible_decay, help="weight of the decay "
                        "curves' audible part beside the published loss (default: %(default)s)")  # fmt: skip
    parser.add_argument("--warmup", type=int, default=training.warmup, help="steps (default: %(default)s)")
    parser.add_argument("--validation", choices=VALIDATIONS, default=training.validation, help="what chooses the "
                        "weights: validation positions, or every measurement left out once; auto: positions if there "
                        "are any (default: %(default)s)")  # fmt: skip
    parser.add_argument("--validate-every", type=int, default=training.validate_every, help="steps (%(default)s)")
    parser.add_argument("--patience", type=int, default=training.patience, help="validations (default: %(default)s)")
    parser.add_argument("--least-gain", type=float, default=training.least_gain, help="share of the validation loss "
                        "below which an improvement is none for --patience (default: %(default)s)")  # fmt: skip
    parser.add_argument("--caution", type=float, default=training.caution, help="standard errors by which validation "
                        "losses must fall, or training is undone; more of few: 2 stands for 2.4 of nine, 4.5 of three "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--averaging", type=float, default=training.averaging, help="decay a step of the weights' "
                        "running average, which is validated and kept; 0 for none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--augment", nargs="+", default=[], metavar="WHAT", help="train every other step in a variant "
                        "of the room: rotation (=90: quarter turns alone), mirror, scale=0.1 (up to this much larger, "
                        "with its sound), translation=0.5 (m from the receiver to the panorama's viewpoint, at most), "
                        "and errors in m, standard deviations: positions=0.05, receiver=0.1, surfaces=0.05, "
                        "registration=0.1 (of receiver and positions together against the surfaces); a name alone "
                        "stands for these numbers, rotation for any angle (default: none)")  # fmt: skip
    parser.add_argument("--checkpointing", action="store_true", help="keep no activations inside the encoders but "
                        "compute them again: half the memory or less, a third more time")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the whole report here")
    parser.add_argument("--run-dir", type=Path, help="log and checkpoint (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder")
    parser.add_argument("--tensorboard", action="store_true", help="log to the run folder for tensorboard too")


def add_geometry(parser: argparse.ArgumentParser) -> None:
    """``--geometry`` of every command that reads a room."""
    parser.add_argument("--geometry", metavar="SOURCE", help="instead of the room's own: a mesh or scan, a depth "
                        "panorama, a JSON file with a geometry entry as in room.json, sound (a box, from echoes), "
                        "sound-network (a panorama, by a network), or none")  # fmt: skip


def _rank(text: str) -> tuple[str, int]:
    layer, _, rank = text.rpartition("=")
    if not layer or not rank.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be LAYER=RANK, such as energy_blend=8")
    return layer, int(rank)


def run(method: str | None, description: str, arguments: Sequence[str] | None = None) -> None:
    """Entry point of the fine-tuning recipes: one line on bad input, a hint on interruption."""
    args = parse_arguments(method, description, arguments)
    with command(IF_INTERRUPTED):
        from haa_peft.finetune import finetune

        finetune(args)
