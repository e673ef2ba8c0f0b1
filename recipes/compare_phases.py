"""What the phase of a waveform costs: from true and from predicted magnitudes, by where Griffin-Lim starts.

    python recipes/compare_phases.py ../shared/data/r3vival/{000,050,100,RB} --corpus unseen --json phases.json

At the validation positions of measured rooms, and at four positions of each simulated room. `random` is the published
reconstruction; `references` starts from the phase of the references and leaves out the spectrogram's floor. Errors from
true magnitudes are what the reconstruction alone adds.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.errors import InputError, check_seed

with command():  # where another package does not load, it is one line
    import numpy as np
    import torch
    from tqdm import tqdm

    from haa_peft import load_backbone, load_room
    from haa_peft.acoustics.spectrogram import log_magnitude
    from haa_peft.commands.outputs import check_report, write_report
    from haa_peft.commands.tables import COLUMNS, figure, markdown
    from haa_peft.evaluation.evaluate import Metrics, check_split, errors, means
    from haa_peft.model.checkpoint import fingerprint
    from haa_peft.model.phases import PHASES
    from haa_peft.model.predict import align_references, choose_targets, waveforms
    from haa_peft.model.tensors import EncodedRoom, RoomTensors, Targets
    from haa_peft.model.xrir import XRIR
    from haa_peft.pretraining.unseen import draw_unseen
    from haa_peft.simulation.corpus import Corpus

K = 8
Asked = tuple[str, EncodedRoom, Targets, np.ndarray]
"""Group, room, targets and the true RIRs (N, 9600) there."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="room folder, HAA folder, twin or simulated room")
    parser.add_argument("--corpus", type=Path, help="folder of simulated rooms")
    parser.add_argument("--corpus-rooms", type=int, default=50, help="of the corpus, the first ones (%(default)s)")
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def measured_rooms(backbone: XRIR, names: list[str]) -> Iterator[Asked]:
    for name in names:
        room = load_room(name)
        check_split(room, "valid")
        rows = room.splits["valid"]
        (encoded,) = backbone.encode([RoomTensors.of_room(room)])
        targets = choose_targets(encoded, room.positions[rows] - room.receiver, min(K, len(encoded.rirs)))
        yield room.room, encoded, targets, room.rirs[rows]


def simulated_rooms(backbone: XRIR, corpus: Corpus, seed: int) -> Iterator[Asked]:
    for index in range(len(corpus)):
        room = corpus[index]
        rows, references = draw_unseen((seed, index), len(room.positions), K)
        rirs, positions = room.rirs.astype(np.float32), torch.from_numpy(room.positions - room.receiver)
        panorama, heard = torch.from_numpy(room.panorama()), torch.from_numpy(rirs)
        (encoded,) = backbone.encode([RoomTensors(panorama, heard, positions)])
        yield "simulated", encoded, Targets(positions[rows], torch.from_numpy(references)), rirs[rows]


@torch.no_grad()
def main() -> None:
    args = parse_arguments()
    if not args.rooms and args.corpus is None:
        raise InputError("no rooms: name room folders or --corpus")
    if args.corpus_rooms < 1:
        raise InputError(f"--corpus-rooms is {args.corpus_rooms} but must be at least 1")
    check_seed(args.seed)
    check_report(args.json, "compare-phases")
    backbone = load_backbone(args.backbone)
    asked = list(measured_rooms(backbone, args.rooms))
    if args.corpus is not None:
        asked += simulated_rooms(backbone, Corpus(args.corpus, args.corpus_rooms), args.seed)
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    true: dict[str, list[np.ndarray]] = {}
    for group, room, targets, rirs in tqdm(asked, unit="room"):
        true.setdefault(group, []).append(rirs)
        magnitudes = {
            "true": log_magnitude(torch.from_numpy(rirs)),
            "predicted": backbone.predict([(room, targets)]),
        }
        for kind, logs in magnitudes.items():
            for phase in PHASES:
                rebuilt = waveforms(logs, *align_references([(room, targets)]), args.seed, phase)
                found.setdefault((group, kind, phase), []).append(rebuilt)
    rows = []
    for (group, kind, phase), parts in found.items():
        apart = errors(Metrics.of(np.concatenate(parts)), Metrics.of(np.concatenate(true[group])))
        count = sum(map(len, parts))
        rows.append({"rooms": group, "positions": count, "magnitudes": kind, "phase": phase, **means(apart)})
    cells = [["rooms", "magnitudes", "phase", *(title for title, *_ in COLUMNS)]]
    for row in rows:
        shown = [figure(row[key], factor, digits) for _, key, factor, digits in COLUMNS]
        cells.append([f"{row['rooms']} ({row['positions']})", row["magnitudes"], row["phase"], *shown])
    print(f"\nmean absolute errors, K = {K}, seed {args.seed}\n\n{markdown(cells)}")
    if args.json is not None:
        made = {"backbone": backbone.origin, "fingerprint": fingerprint(backbone)}
        print(write_report(args.json, "compare-phases", {**made, "k": K, "seed": args.seed, "rows": rows}))


if __name__ == "__main__":
    with command():
        main()
