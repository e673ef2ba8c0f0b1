"""``haa-peft auralise``: a dry sound in a room, at a position or along a path, as sound files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft.commands.options import add_store
from haa_peft.commands.outputs import check_writable
from haa_peft.errors import InputError
from haa_peft.satellites import satellite

if TYPE_CHECKING:
    import numpy as np

    from haa_peft.inference.predictor import RoomPredictor

OUTPUTS = ("mono", "binaural", "ambisonics")
HEADS = ("receiver", "source")
KINDS = (".wav", ".flac")
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} s [{elapsed}<{remaining}]"


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser(
        "auralise",
        help="hear a dry sound in a room",
        description="Convolve a dry sound with the RIRs that stored adapters predict at a position or along a path. "
        "Several adapters, such as before and after a panel, get one gain, so that they can be compared.",
        example="haa-peft auralise classroom-twin/base classroom-twin/panel --position 3 2 1.3 --out before.wav "
        "after.wav",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("names", metavar="NAME", nargs="+", help="adapters, such as hallway/base hallway/panel1")
    parser.add_argument("--dry", type=Path, metavar="FILE", help="sound without a room (default: one that is bundled)")
    where = parser.add_argument_group("where, one of")
    where.add_argument("--position", type=float, nargs=3, metavar=("X", "Y", "Z"), help="m in the room")
    where.add_argument("--path", type=Path, metavar="FILE", help="CSV with a first row time,x,y,z (s and m), and "
                       "yaw,pitch behind if the head turns (degrees)")  # fmt: skip
    parser.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help=".wav or .flac of 24 bits, "
                        "one for each adapter")  # fmt: skip
    parser.add_argument("--output", choices=OUTPUTS, default=OUTPUTS[0], help="one channel, two ears (for headphones), "
                        "or ambisonics of first order, ACN and SN3D (default: %(default)s)")  # fmt: skip
    parser.add_argument("--hrtf", type=Path, metavar="FILE.sofa", help="of the ears (SimpleFreeFieldHRIR)")
    parser.add_argument("--facing", type=float, nargs="+", metavar="DEGREES", help="yaw, from x to y, and pitch of the "
                        "head (default: to the other end as the path begins)")  # fmt: skip
    parser.add_argument("--head", choices=HEADS, default=HEADS[0], help="who listens: the receiver, to a source at "
                        "the position, or a head at the position, to a source at the receiver "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--gain", type=float, metavar="DB", help="of all files (default: the loudest peaks at -1 dBFS)")
    parser.add_argument("--same-loudness", action="store_true", help="bring all files to the same loudness (BS.1770) "
                        "instead of giving them one gain")  # fmt: skip
    parser.add_argument("--receiver", type=int, metavar="N", help="of several, the one, counted from 0")
    parser.add_argument("--k", type=int, help="references to use (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, help="of the diffuse field (default: 0)")
    add_store(parser)


def _run(args: argparse.Namespace) -> None:
    _check(args)
    from haa_peft.inference.predictor import RoomPredictor
    from haa_peft.listening.path import read_path
    from haa_peft.listening.recording import levels

    dry, rate = _dry(args.dry)
    where = args.position if args.path is None else read_path(args.path)
    predictor = RoomPredictor.load(args.names[0], store=args.store, backbone=args.backbone)
    heard = []
    for number, name in enumerate(args.names):
        if number:
            predictor.switch(name)
        heard.append(_listen(args, predictor, dry, rate, where))
    ends = "at the receiver" if args.head == "receiver" else "at the position (reciprocity)"
    found = levels([one.meter for one in heard], args.gain, args.same_loudness)
    for name, out, one, level in zip(args.names, args.out, heard, found, strict=True):
        one.write(out, level.gain)
        print(f"{out}: {name}, {args.output}, heard {ends}, gain {level.gain:+.2f} dB, peak {level.peak:.2f} dBFS, "
              f"{level.loudness:.1f} LUFS")  # fmt: skip


def _check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for what cannot be done, before anything is loaded."""
    satellite("rendering", "haa-peft auralise")
    if (args.position is None) == (args.path is None):
        raise InputError("one of --position and --path is needed, and not both")
    if len(args.out) != len(args.names) or len(set(args.out)) < len(args.out):
        raise InputError(
            f"--out names {len(set(args.out))} files but there are {len(args.names)} adapters; one for each"
        )
    for out in args.out:
        if out.suffix.lower() not in KINDS:
            raise InputError(f"--out is {str(out)!r} but must end in {' or '.join(KINDS)}")
        check_writable(out)
    if (args.output == "binaural") != (args.hrtf is not None):
        raise InputError("--output binaural needs --hrtf, a SOFA file of a head's HRTFs, and no other output does")
    if args.gain is not None and args.same_loudness:
        raise InputError("--gain does not go with --same-loudness; give one of them")


def _dry(path: Path | None) -> tuple[np.ndarray, int]:
    """Samples (N, channels) or (N,) and their rate in Hz."""
    from haa_peft.listening import dry_sound

    if path is None:
        return dry_sound()
    import soundfile

    from haa_peft.listening.in_room import LONGEST_S

    try:
        with soundfile.SoundFile(path) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if seconds > LONGEST_S:
                raise InputError(f"--dry {path}: lasts {seconds:.0f} s but at most {LONGEST_S:g} s are auralised")
            sound = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"--dry {path}: cannot be read as sound ({str(error).rstrip('.')})") from None
    if sound.shape[1] > 1:
        print(f"--dry {path}: has {sound.shape[1]} channels, whose mean is taken")
    return sound, rate


def _listen(args: argparse.Namespace, predictor: RoomPredictor, dry: np.ndarray, rate: int, where: Any) -> Any:
    """The :class:`~haa_peft.listening.recording.Recording` of the adapter in use."""
    from tqdm import tqdm

    from haa_peft.listening import stream
    from haa_peft.listening.recording import Recording

    recording = Recording(rate, ears=args.output != "ambisonics")
    blocks = stream(predictor, dry, rate, where, output=args.output, hrtf=args.hrtf, facing=args.facing, head=args.head,
                    receiver=args.receiver, k=args.k, seed=args.seed)  # fmt: skip
    seconds = len(dry) / rate + predictor.full_length
    with tqdm(total=seconds, desc=predictor.name, disable=None, bar_format=BAR) as bar:
        for block in blocks:
            recording.add(block)
            bar.update(block.shape[1] / rate)
    return recording
