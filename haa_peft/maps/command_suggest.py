"""``haa-peft suggest``: where to measure next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_store
from haa_peft.commands.outputs import check_writable
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.satellites import satellite


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "suggest",
        help="where to measure next",
        description="Positions of a grid: farthest from all measurements, or where the uncertainty of an "
        "adapter's levels falls most.",
        example="haa-peft suggest classroom-twin/base --count 4",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    parser.add_argument("--count", type=int, default=4, help="positions (default: %(default)s)")
    parser.add_argument("--by", choices=("distance", "variance"), default="distance", help="what lies farthest from "
                        "all measurements, or lowers the levels' variance most (default: %(default)s)")  # fmt: skip
    parser.add_argument("--height", type=float, nargs="+", metavar="Z", help="of the grid (default: the receiver's)")
    parser.add_argument("--grid", type=float, metavar="M", default=0.5, help="metres between points (default: 0.5)")
    parser.add_argument("--receiver", type=int, metavar="N", help="of several, the one, counted from 0")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the positions here too")
    add_store(parser)


def _run(args: argparse.Namespace) -> None:
    satellite("exporting", "a grid of positions")
    if args.out is not None:
        if args.out.suffix.lower() != ".csv":
            raise InputError(f"--out is {str(args.out)!r} but must end in .csv")
        check_writable(args.out)
    from haa_peft.exporting.places import grid
    from haa_peft.inference.predictor import RoomPredictor
    from haa_peft.maps.suggest import farthest, suggest

    predictor = RoomPredictor.load(args.name, store=args.store, backbone=args.backbone)
    receiver, references, _, levels = predictor.measured(args.receiver)
    if levels is None and args.by == "variance":
        raise InputError(f"{args.name} has no levels, whose uncertainty says where; leave --by variance out")
    heights = [float(receiver[2])] if args.height is None else args.height
    places = grid(predictor.geometry, receiver[None], args.grid, heights, references)
    if levels is None or args.by == "distance":
        rows, said = farthest(references, places, args.count), "farthest from all measurements"
    else:
        rows, known = suggest(levels, places - receiver, args.count)
        said = f"levels are known to {known[0]:.2f} dB, with these to {known[-1]:.2f} dB (chance included)"
    lines = ["x_m,y_m,z_m"] + [",".join(f"{x:.3f}" for x in places[row]) for row in rows]
    print("\n".join(lines))
    print(f"{predictor.name}: {said}")
    if args.out is not None:
        write_atomically(args.out, ("\n".join(lines) + "\n").encode())
