"""``haa-peft geometry``: what a room's geometry is, as stated, drawn, or estimated from its sound."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_geometry, add_json, add_room, open_room
from haa_peft.commands.outputs import check_report, check_writable, write_report
from haa_peft.errors import InputError


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "geometry",
        help="say how far to trust a room's geometry; draw it, or estimate it from sound",
        description="Say what a room's geometry is, where it comes from and how far to trust it.",
        example="haa-peft geometry classroom-twin/base --png depth.png",
    )
    parser.set_defaults(command=_run)
    add_room(parser)
    add_geometry(parser)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the depth panorama here")
    parser.add_argument("--out", type=Path, metavar="FILE.npy", help="write it here, as a depth panorama to be given "
                        "as geometry")  # fmt: skip
    sound = parser.add_argument_group("from sound")
    sound.add_argument("--from-sound", action="store_true", help="estimate the box around the receiver from the "
                       "echoes, and check the geometry given")  # fmt: skip
    sound.add_argument("--no-floor", action="store_true", help="z = 0 is not the floor (default: it probably is)")
    add_json(sound)


def _run(args: argparse.Namespace) -> None:
    wrong = ("png", "out") if args.from_sound else ("no_floor", "json")
    for name in [name for name in wrong if getattr(args, name)]:
        does = "does not go" if args.from_sound else "goes"
        raise InputError(f"--{name.replace('_', '-')} {does} with --from-sound")
    (_from_sound if args.from_sound else _explain)(args)


def _explain(args: argparse.Namespace) -> None:
    from haa_peft.geometry.estimate.explain import check_drawing, draw_depth, explain, write_depth
    from haa_peft.satellites import has, satellite

    for path in (args.png, args.out):
        if path is not None:
            check_writable(path)
    check_drawing(args.png, args.out)
    room = open_room(args).alone("haa-peft geometry")
    print("\n".join(explain(room)))
    if has("findings"):
        for one in satellite("findings", "haa-peft geometry").check_room(room):
            print(one.line)
    if args.png is not None:
        draw_depth(room, args.png)
    if args.out is not None:
        write_depth(room, args.out)


def _from_sound(args: argparse.Namespace) -> None:
    from haa_peft.geometry.estimate.dispatch import FEWEST_RIRS
    from haa_peft.geometry.estimate.plausibility import check_surfaces
    from haa_peft.geometry.estimate.shoebox import estimate_shoebox
    from haa_peft.geometry.estimate.tables import sound_tables

    check_report(args.json, "geometry-from-sound")
    room = open_room(args).alone("haa-peft geometry")
    train = room.splits["train"]
    if len(train) < FEWEST_RIRS:
        raise InputError(f"{room.name} has {len(train)} training measurements but echoes need {FEWEST_RIRS}")
    measured = room.rirs[train], room.positions[train], room.receiver
    estimate = estimate_shoebox(*measured, floor=None if args.no_floor else 0.0)
    check = None if room.surfaces is None else check_surfaces(*measured, room.surfaces, estimate)
    print(f"{room.name}: {estimate.telling.in_words()}\n")  # by geometry, whatever is heard
    print(f"{room.name}: {estimate.in_words()}\n\n{sound_tables(estimate, check, room.surfaces)}")
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
