"""How often measured metrics lie within one standard deviation of the predicted ones.

    python recipes/calibrate_maps.py ../shared/data/r3vival/* --store adapters --json recipes/results/calibration.json

For each room the stored adapter of its name predicts up to 60 validation and up to 60 test positions, which it was not
trained at; a normal error lies within one standard deviation in 68 % of all cases.
"""

import argparse
from pathlib import Path

from haa_peft.commands.ending import command

with command():
    import numpy as np

    from haa_peft import RoomPredictor, load_room
    from haa_peft.files import write_json
    from haa_peft.maps.deviation import Deviations
    from haa_peft.maps.metrics import BANDS, BROADBAND, METRICS, metric_values
    from haa_peft.rooms.room import Room

MOST = 60
SPLITS = ("valid", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", metavar="ROOM")
    parser.add_argument("--store", metavar="FOLDER", help="of adapters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    args = parser.parse_args()
    found = {}
    for path in args.rooms:
        room = load_room(path)
        predictor = RoomPredictor.load(room.name, store=args.store)
        known = Deviations(predictor)
        found[room.name] = {split: inside(room, predictor, known, split) for split in SPLITS}
        print(
            f"{room.name}: {', '.join(f'{split} {_share(found[room.name][split]):.2f}' for split in SPLITS)}",
            flush=True,
        )
        if args.json is not None:
            write_json(args.json, found)
    print(table(found))


def inside(room: Room, predictor: RoomPredictor, known: Deviations, split: str) -> dict[str, dict[str, list[int]]]:
    """By metric and band: how many errors lie within one standard deviation, and of how many."""
    rows = room.splits[split]
    rows = rows[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
    positions, rate = room.positions[rows], predictor.sample_rate
    predicted, decibels = predictor.predict(positions), known.at(positions)
    scaled = room.rirs[rows] * room.scale / predictor.scale
    found: dict[str, dict[str, list[int]]] = {}
    for metric in METRICS:
        found[metric] = {}
        for band in (BROADBAND,) if metric == "sti" else BANDS:
            errors = metric_values(predicted, rate, metric, band) - metric_values(scaled, rate, metric, band)
            ratio = np.abs(errors) / (decibels * known.per_decibel(metric, band))
            found[metric][band] = [int((ratio <= 1).sum()), int(np.isfinite(ratio).sum())]
    return found


def _share(found: dict) -> float:
    counts = np.sum([band for metric in found.values() for band in metric.values()], axis=0)
    return counts[0] / max(1, counts[1])


def table(found: dict) -> str:
    lines = ["| metric | " + " | ".join(SPLITS) + " | n of test |", "|---|---:|---:|---:|"]
    for metric in METRICS:
        counts = [
            np.sum([band for room in found.values() for band in room[split][metric].values()], axis=0)
            for split in SPLITS
        ]
        shares = " | ".join(f"{100 * a / max(1, b):.0f} %" for a, b in counts)
        lines.append(f"| {metric} | {shares} | {counts[-1][1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with command():
        main()
