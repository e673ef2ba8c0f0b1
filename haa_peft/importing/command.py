"""``haa-peft import``: measurements in a SOFA file, sound files or arrays, as a room folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from haa_peft.importing import import_room
from haa_peft.importing.wanted import REPAIRS, Wanted

UNITS = ("mm", "cm", "m", "in", "ft")
"""Of :data:`haa_peft.geometry.entry.UNITS`, which takes numpy to import."""


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "import",
        help="make a room folder of a SOFA file, sound files or arrays",
        description="Read measurements, check them, and write them as a room folder; say what was taken for what.",
        example="haa-peft import room.sofa --out studio/base --dry-run",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("source", metavar="SOURCE", nargs="+", type=Path, help="a .sofa file; a folder of .wav or "
                        ".flac files, or several; a .mat, .npz or .npy file")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="ROOM", help="the folder to write, "
                        "ROOM/CONFIGURATION")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and write nothing")
    stated = parser.add_argument_group("what the source does not say")
    stated.add_argument("--positions", type=Path, metavar="FILE", help="CSV, JSON or .npy, a row an RIR (default: "
                        "the one table in the folder)")  # fmt: skip
    stated.add_argument("--receiver", type=float, nargs=3, action="append", default=[], metavar=("X", "Y", "Z"),
                        help="the point that stays fixed, m; several times for several channels")  # fmt: skip
    stated.add_argument("--rate", type=int, metavar="HZ", help="sample rate, of arrays")
    stated.add_argument("--units", choices=UNITS, help="of positions (default: what the file says, else m)")
    stated.add_argument("--variables", nargs="+", default=[], metavar="WHAT=NAME", type=_variable, help="names in a "
                        ".mat or .npz file of rirs, positions, receiver and rate")  # fmt: skip
    stated.add_argument("--room-size", type=float, nargs=3, metavar=("X", "Y", "Z"), help="m, of a box with a corner "
                        "at the origin (default: what the file says, else nothing is known)")  # fmt: skip
    stated.add_argument("--clockwise", action="store_true", help="azimuths count clockwise")
    mend = parser.add_argument_group("what is wrong with it")
    mend.add_argument("--repair", nargs="*", choices=REPAIRS, metavar="WHAT", help="mend what the measurements say how "
                      f"to: {', '.join(REPAIRS)} (without a word: all of these)")  # fmt: skip
    mend.add_argument("--allow-faults", action="store_true", help="write the room although something is wrong with it")
    chosen = parser.add_argument_group("what to take of it")
    chosen.add_argument(
        "--channel", type=_channel, metavar="N", help="one channel, counted from 1, or all, as receivers of one room"
    )
    chosen.add_argument("--view", type=float, metavar="DEGREES", help="azimuth that a turning head looks at")


def _variable(text: str) -> tuple[str, str]:
    what, _, name = text.partition("=")
    known = ("rirs", "positions", "receiver", "rate")
    if what not in known or not name:
        raise argparse.ArgumentTypeError(f"is {text!r} but must be WHAT=NAME, WHAT one of {', '.join(known)}")
    return what, name


def _channel(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r} but must be a whole number or all")
    return text if text == "all" else int(text)


def _run(args: argparse.Namespace) -> None:
    wanted = Wanted(
        positions=args.positions,
        rate=args.rate,
        receivers=tuple(tuple(point) for point in args.receiver),
        units=args.units,
        channel=args.channel,
        view=args.view,
        variables=dict(args.variables),
        room_size=None if args.room_size is None else tuple(args.room_size),
        clockwise=args.clockwise,
        repair=REPAIRS if args.repair == [] else tuple(args.repair or ()),
        allow_faults=args.allow_faults,
    )
    print("\n".join(import_room(args.source, args.out, wanted, dry_run=args.dry_run)))
