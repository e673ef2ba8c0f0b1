"""``haa-peft predict``: the RIR at a position, as a WAV file."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from haa_peft.commands.options import add_phase, add_store
from haa_peft.errors import InputError
from haa_peft.files import write_atomically


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "predict",
        help="write the RIR at a position as a WAV file",
        description="Predict the RIR at a position by a stored adapter, and write it as a WAV file.",
        example="haa-peft predict classroom-twin/base --position 2 3 1.5 --out rir.wav",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    parser.add_argument("--position", type=float, nargs=3, required=True, metavar=("X", "Y", "Z"), help="m in the room")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.wav", help="22 050 Hz, 32-bit float")
    parser.add_argument("--k", type=int, help="references to use (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, help="of a random phase (default: 0)")
    add_store(parser)
    add_phase(parser)


def _run(args: argparse.Namespace) -> None:
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
