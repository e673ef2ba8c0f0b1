"""``haa-peft map``: a room acoustic parameter on the floor plan, with its uncertainty."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft.commands.options import add_phase, add_store
from haa_peft.commands.outputs import check_writable
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.satellites import satellite

if TYPE_CHECKING:
    import numpy as np

    from haa_peft.inference.predictor import RoomPredictor

NAMES = ("c50", "edt", "t30", "d50", "level", "sti")
BANDS = ("broadband", "125", "250", "500", "1000", "2000", "4000")
USUAL = 1500
"""Points of a grid whose spacing is not given, about."""


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "map",
        help="draw C50, EDT, T30 and others on the floor plan, with their uncertainty",
        description="Draw a metric on the floor plan as a stored adapter predicts it, with its standard deviation.",
        example="haa-peft map classroom-twin/base --metric c50 --height 1.2 --out map.png",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    parser.add_argument("--metric", choices=NAMES, default="c50", help="(default: %(default)s)")
    parser.add_argument("--band", choices=BANDS, default=BANDS[0], help="octave in Hz (default: %(default)s)")
    parser.add_argument("--minus", metavar="NAME", help="adapter of another configuration, which is subtracted")
    parser.add_argument("--height", type=float, metavar="Z", help="of the plane, m (default: the receiver's)")
    parser.add_argument("--grid", type=float, metavar="M", help=f"metres between points (default: some {USUAL} points)")
    parser.add_argument("--receiver", type=int, metavar="N", help="of several, the one, counted from 0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png or .csv")
    parser.add_argument("--k", type=int, help="references to use (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, help="of a random phase (default: 0)")
    add_store(parser)
    add_phase(parser)


def _run(args: argparse.Namespace) -> None:
    _check(args)
    import numpy as np
    import torch

    from haa_peft.inference.predictor import RoomPredictor

    torch.set_num_threads(1)  # as many points are computed at once as there are cores
    predictor = RoomPredictor.load(args.name, store=args.store, backbone=args.backbone, phase=args.phase)
    positions = _grid(args, predictor)
    field = _field(args, predictor, positions)
    if args.minus is not None:
        predictor.switch(args.minus)
        field = field.minus(_field(args, predictor, positions))
    if args.out.suffix.lower() == ".png":
        from haa_peft.maps.draw import draw_map

        content = draw_map(field)
    else:
        content = field.to_csv()
    write_atomically(args.out, content)
    undefined = int(np.isnan(field.estimate.values).sum())
    missing = f", undefined at {undefined}" if undefined else ""
    print(f"{args.out}: {args.metric} of {field.title} at {len(positions)} points, {field.height:g} m high{missing}")


def _check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for what cannot be done, before anything is loaded."""
    satellite("exporting", "the grid of a map")
    from haa_peft.maps.metrics import check_metric

    check_metric(args.metric, args.band)
    if args.out.suffix.lower() not in (".png", ".csv"):
        raise InputError(f"--out is {str(args.out)!r} but must end in .png or .csv")
    if args.out.suffix.lower() == ".png":
        from haa_peft.environment import package

        package("matplotlib", f"--out {args.out}", "plots")
    check_writable(args.out)


def _grid(args: argparse.Namespace, predictor: RoomPredictor) -> np.ndarray:
    """Points (N, 3) m of the map."""
    import numpy as np

    from haa_peft.exporting.places import grid

    receiver, references, *_ = predictor.measured(args.receiver)
    height = float(receiver[2]) if args.height is None else args.height
    spacing = args.grid
    if spacing is None:
        low, high = predictor.geometry.bounds()
        if not np.isfinite([low, high]).all():
            low, high = references.min(axis=0), references.max(axis=0)
        spacing = float(np.clip(np.sqrt(np.prod((high - low)[:2]) / USUAL), 0.02, 100))
    return grid(predictor.geometry, receiver[None], spacing, [height], references)


def _field(args: argparse.Namespace, predictor: RoomPredictor, positions: np.ndarray) -> Any:
    """The :class:`~haa_peft.maps.field.Map` of the adapter in use at points (N, 3) m."""
    from haa_peft.maps.field import make_map

    def progress(parts: Iterable) -> Iterator:
        from tqdm import tqdm

        with tqdm(total=len(positions), desc=predictor.name, unit=" points", disable=None) as bar:
            for part in parts:
                yield part
                bar.update(len(part))

    return make_map(predictor, positions, args.metric, args.band, k=args.k, seed=args.seed, receiver=args.receiver,
                    progress=progress)  # fmt: skip
