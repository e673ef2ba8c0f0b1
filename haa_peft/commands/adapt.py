"""``haa-peft adapt``, and the flags of the recipes that do the same: what is adapted to what, and how."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from haa_peft.adapters.settings import METHODS, MethodSettings
from haa_peft.commands.options import DEFAULT_ROOM, add_geometry, add_json, add_receiver, add_store, add_workers
from haa_peft.commands.parser import Parser, add_setting
from haa_peft.fields import RENAMED
from haa_peft.training.settings import TrainingSettings

IF_INTERRUPTED = "once training has begun, the same command with --resume goes on"


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "adapt",
        help="adapt to a room, or to many, by any method",
        description="Adapt the backbone to a room, compare it with baselines where it was not measured, and store it. "
        "Of many rooms, those that have an adapter of the same settings and measurements are left out.",
        usage="haa-peft adapt [ROOM ...] [--method METHOD] [--name ROOM/CONFIGURATION] [...]",
        example="haa-peft adapt path/to/hallwayPanel1 --method lora --json report.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_run)
    parser.add_argument("room", metavar="ROOM", nargs="*", default=argparse.SUPPRESS, action=_OneOrMore,
                        help="as --room; several, or a pattern such as 'building/*/*', one by one")  # fmt: skip
    add_arguments(parser, None)
    add_workers(parser.add_argument_group("many rooms"), "rooms")


class _OneOrMore(argparse.Action):
    """Of one room its name, of several a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _run(args: argparse.Namespace) -> None:
    from haa_peft.commands import job, many

    (many.run if many.is_meant(args) else job.run)(args)


def parse_arguments(method: str | None, description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the recipes; with no method given, ``--method`` names it."""
    example = f"accelerate launch recipes/finetune{f'_{method}' if method else ''}.py --room {DEFAULT_ROOM}"
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, example=example)
    add_arguments(parser, method)
    return parser.parse_args(arguments)


def add_arguments(parser: Parser, method: str | None) -> None:
    """What to adapt to, how, and where to; arguments that a given method does not have are left out."""
    parser.old_names = {"--" + old.replace("_", "-"): "--" + new.replace("_", "-") for old, new in RENAMED.items()}
    has_layers = method in (None, "lora")
    parser.add_argument("--room", help="room folder, HAA folder, twin or simulated/SEED-INDEX (default: "
                        f"{DEFAULT_ROOM}, a simulated classroom)")  # fmt: skip
    if method is None:
        about = "\n".join(f"  {name}: {what}" for name, what in METHODS.items())
        parser.epilog = f"methods:\n{about}"
        add_setting(parser, MethodSettings, "method", metavar="METHOD", help="see below (default: lora)")
    else:
        parser.set_defaults(method=method)
    parser.add_argument("--name", help="of the adapter; room/configuration of the room unless given, @METHOD behind it "
                        "if the method is not lora; @trial without a room")  # fmt: skip
    add_store(parser)
    add_geometry(parser)
    if has_layers:
        add_setting(parser, MethodSettings, "rank")
    add_setting(parser, TrainingSettings, "k", default=None, help="references for each target (default: "
                f"{TrainingSettings.k}, or all others if fewer)")  # fmt: skip
    parser.add_argument("--shots", type=int, help="measurements to use (default: all training positions, 12)")
    add_setting(parser, TrainingSettings, "seed")
    add_setting(parser, TrainingSettings, "max_steps")
    add_setting(parser, TrainingSettings, "lr")
    add_json(parser)
    _add_beginnings(parser)
    _add_layers(parser, has_layers)
    _add_training(parser)
    _add_run(parser)


def _add_beginnings(parser: Parser) -> None:
    begin = parser.add_argument_group("what to begin with")
    begin.add_argument("--start", metavar="NAME", help="go on from this stored adapter (warm start)")
    begin.add_argument(
        "--on-top-of", metavar="NAME", help="leave this stored adapter as it is, and add a second one to it"
    )
    begin.add_argument("--borrow", metavar="NAME", help="add the measurements of this stored adapter, of another "
                       "configuration of the room, converted to this one, if that is better")  # fmt: skip
    begin.add_argument("--first-stage", nargs="+", metavar="ROOM", default=[], help="adapt to all of these together "
                       "first, and go on from there")  # fmt: skip


def _add_layers(parser: Parser, has_layers: bool) -> None:
    layers = parser.add_argument_group("what is trained")
    if has_layers:
        add_setting(layers, MethodSettings, "alpha")
        add_setting(layers, MethodSettings, "ranks", nargs="+", type=_rank, metavar="LAYER=RANK", default=[])
        add_setting(layers, MethodSettings, "convolutions")
        add_setting(layers, MethodSettings, "dropout")
    add_setting(layers, MethodSettings, "freeze", metavar="WHICH")
    add_setting(layers, MethodSettings, "levels")
    add_setting(layers, MethodSettings, "channels", metavar="WHICH")


def _add_training(parser: Parser) -> None:
    training = parser.add_argument_group("how it is trained")
    for name in (
        "weight_decay",
        "warmup",
        "audible_decay",
        "validation",
        "validate_every",
        "patience",
        "min_delta",
        "caution",
        "ema_decay",
    ):
        add_setting(training, TrainingSettings, name)
    training.add_argument("--augment", nargs="+", default=[], metavar="WHAT", help="train every other step in a "
                          "variant of the room: rotation (=90: quarter turns alone), mirror, scale=0.1 (up to this "
                          "much larger, with its sound), translation=0.5 (m from the receiver to the panorama's "
                          "viewpoint, at most), and errors in m, standard deviations: positions=0.05, receiver=0.1, "
                          "surfaces=0.05, registration=0.1 (of receiver and positions together against the surfaces); "
                          "a name alone stands for these numbers, rotation for any angle (default: none)")  # fmt: skip
    training.add_argument("--gradient-checkpointing", action="store_true", help="keep no activations inside "
                                  "the encoders but compute them again: half the memory or less, a third more "
                                  "time")  # fmt: skip


def _add_run(parser: Parser) -> None:
    running = parser.add_argument_group("the run")
    add_receiver(running)
    running.add_argument("--run-dir", type=Path, metavar="FOLDER", help="log and checkpoint (default: runs/NAME)")
    running.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder")
    running.add_argument("--allow-faults", action="store_true", help="train although something is wrong with the "
                         "measurements")  # fmt: skip
    running.add_argument("--no-recordings", dest="recordings", action="store_false", help="do not keep the "
                         "measurements in the pack at their own rate and length, for predictions at full length; they "
                         "take 2 bytes a sample")  # fmt: skip
    running.add_argument("--tensorboard", action="store_true", help="log to the run folder for tensorboard too")


def _rank(text: str) -> tuple[str, int]:
    layer, _, rank = text.rpartition("=")
    if not layer or not rank.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r} but must be LAYER=RANK, such as energy_blend=8")
    return layer, int(rank)
