"""``haa-peft predict``: RIRs at positions, as a file that other programs read."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft.commands.options import add_store
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.model.phases import DIFFUSE, PHASES
from haa_peft.satellites import satellite

if TYPE_CHECKING:
    import numpy as np

    from haa_peft.inference.predictor import RoomPredictor


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "predict",
        help="write RIRs at positions as WAV, SOFA or NumPy's files",
        description="Predict RIRs at positions, along a path or in a grid, by a stored adapter: as they are modelled, "
        "0.435 s at 22 050 Hz, or at another rate and length.",
        example="haa-peft predict studio/base --position 2 3 1.5 --rate 48000 --length full --out rir.wav",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("name", metavar="NAME", help="adapter, such as hallway/panel1")
    where = parser.add_argument_group("where, one of")
    where.add_argument("--position", type=float, nargs=3, action="append", metavar=("X", "Y", "Z"), help="m in the "
                       "room; several times for several")  # fmt: skip
    where.add_argument("--positions", type=Path, metavar="FILE", help="CSV, JSON or .npy, a row a position")
    where.add_argument("--grid", type=float, metavar="M", help="a grid in the room, so many metres apart")
    where.add_argument(
        "--step", type=float, metavar="M", help="between the positions too, so many metres apart: a path"
    )
    where.add_argument("--height", type=float, nargs="+", metavar="Z", help="of the grid (default: the receiver's)")
    parser.add_argument("--receiver", type=int, metavar="N", help="of several, the one, counted from 0 (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".wav (one position), .sofa, .npz, or "
                        "a folder of WAV files with positions.csv; 32-bit floats")  # fmt: skip
    parser.add_argument("--rate", type=int, metavar="HZ", help="sample rate (default: 22050)")
    parser.add_argument("--length", type=_length, metavar="SECONDS", help="or full, for as long as the room rings "
                        "(default: 0.435)")  # fmt: skip
    parser.add_argument("--k", type=int, help="references to use (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, help="of chance in the waveform (default: 0)")
    add_store(parser)
    parser.add_argument("--phase", choices=(*PHASES, DIFFUSE), help="that a waveform starts from: the aligned "
                        "references', a random one as published, or the references' until the room mixes and a diffuse "
                        "field's then (default: references; diffuse with --rate or --length)")  # fmt: skip


def _length(text: str) -> str | float:
    try:
        return text if text == "full" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r} but must be full or seconds") from None


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """How it is predicted."""
    asked = {"k": args.k, "seed": args.seed, "sample_rate": args.rate, "length": args.length}
    return {**asked, "receiver": args.receiver}


def _run(args: argparse.Namespace) -> None:
    _check(args)
    from haa_peft.inference.predictor import RoomPredictor

    predictor = RoomPredictor.load(args.name, store=args.store, backbone=args.backbone, phase=args.phase)
    count = len(predictor.receivers)
    if args.receiver is not None and not 0 <= args.receiver < count:
        raise InputError(f"--receiver is {args.receiver} but {args.name} has {count}, counted from 0")
    positions = _positions(args, predictor)
    if args.out.suffix.lower() == ".wav":
        _write_wav(args, predictor, positions)
        return
    from haa_peft.exporting import export
    from haa_peft.exporting.responses import predict_responses

    responses = predict_responses(predictor, positions, **_asked(args))
    export(responses, args.out)
    seconds = responses.rirs.shape[1] / responses.sample_rate
    print(f"{args.out}: {len(responses.rirs)} RIRs of {seconds:.3f} s in {predictor.name}")


def _check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for what cannot be done, before anything is loaded."""
    given = [flag for flag in ("position", "positions", "grid") if getattr(args, flag) is not None]
    if len(given) != 1:
        raise InputError(f"one of --position, --positions and --grid is needed, not {' and '.join(given) or 'none'}")
    for flag, needs in (("height", ("grid",)), ("step", ("position", "positions"))):
        if getattr(args, flag) is not None and given[0] not in needs:
            raise InputError(f"--{flag} goes with --{' and --'.join(needs)}, not with --{given[0]}")
    kind = args.out.suffix.lower()
    if kind not in (".wav", ".sofa", ".npz", ""):
        raise InputError(
            f"--out is {str(args.out)!r} but must end in .wav, .sofa or .npz, or be a folder for WAV files"
        )
    if kind != ".wav":
        satellite("exporting", f"--out {args.out}").check_target(args.out)


def _positions(args: argparse.Namespace, predictor: RoomPredictor) -> np.ndarray:
    """Positions (N, 3) m that were asked for."""
    import numpy as np

    if args.grid is None and args.step is None and args.position is not None:
        return np.array(args.position)
    satellite("exporting", "a grid, a path or a table of positions")
    from haa_peft.exporting.places import along, grid

    receivers = predictor.receivers[slice(None) if args.receiver is None else slice(args.receiver, args.receiver + 1)]
    if args.grid is not None:
        heights = [float(receivers[0, 2])] if args.height is None else args.height
        return grid(predictor.geometry, receivers, args.grid, heights, predictor.references)
    points = np.array(args.position) if args.position is not None else _table(args.positions, receivers)
    return points if args.step is None else along(points, args.step)


def _table(path: Path, receivers: np.ndarray) -> np.ndarray:
    """Positions (N, 3) m of a table, as ``haa-peft import`` reads it; angles are around the one receiver (1, 3) m."""
    satellite("importing", f"--positions {path}")
    from haa_peft.importing.table import read_positions

    found = read_positions(path, None)
    places = found.sources if found.sources is not None else found.receivers
    assert places is not None  # a table has one of them
    if found.around and len(receivers) > 1:
        raise InputError(f"{path}: has angles around a receiver, and there are {len(receivers)}; give --receiver")
    return places + receivers[0] if found.around else places


def _write_wav(args: argparse.Namespace, predictor: RoomPredictor, positions: np.ndarray) -> None:
    """One RIR as a WAV file."""
    import soundfile

    if len(positions) != 1:
        raise InputError(
            f"--out {args.out}: a WAV file holds one RIR, not {len(positions)}; give a folder, .sofa or .npz"
        )
    rir = predictor.predict(positions, **_asked(args))[0] * predictor.scale
    rate = args.rate or predictor.sample_rate
    wav = io.BytesIO()
    soundfile.write(wav, rir, rate, subtype="FLOAT", format="WAV")
    write_atomically(args.out, wav.getvalue())
    seconds, where = len(rir) / rate, f"at {positions[0].tolist()} in {predictor.name}"
    print(f"{args.out}: {seconds:.3f} s at {rate} Hz {where}, peak {abs(rir).max():.3g}")
