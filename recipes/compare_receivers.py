"""One adapter for all receivers of a room, against one for each of them.

    haa-peft import ../shared/data/sofa/UniS_Room_A_BRIR_16k.sofa --channel all --repair --out unis-a/ears
    python recipes/compare_receivers.py unis-a/ears --shots 6 --seeds 0 1 2 --json ears.json
    python recipes/compare_receivers.py ../shared/data/measured/rs-office-1 ../shared/data/measured/rs-office-5

Several folders are taken for receivers of one room. Every seed draws its own training positions, the same for all
receivers; errors are means over the test positions of all receivers, which no adapter has seen.
"""

import argparse
import dataclasses
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.errors import InputError, check_seed

with command():  # where another package does not load, it is one line
    import numpy as np

    from haa_peft import adapt_room, load_backbone, load_room
    from haa_peft.adapted_room import LEVELS_ALONE, AdaptedRoom
    from haa_peft.adapters.methods import MethodSettings
    from haa_peft.commands.outputs import check_report, write_report
    from haa_peft.commands.tables import figure, markdown
    from haa_peft.rooms.room import Room, together
    from haa_peft.studies.plan import redraw
    from haa_peft.training.settings import TrainingSettings

METRICS = (("EDT ms", "edt_s", 1000, 1), ("C50 dB", "c50_db", 1, 2), ("T60 %", "t60_percent", 1, 1))
ALL, EACH = "one adapter for all", "one adapter each"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", metavar="ROOM", help="a room folder of several receivers, or several")
    parser.add_argument("--shots", type=int, help="measurements of each receiver (default: all training positions)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--method", default="lora", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def views_of(folders: list[str]) -> list[Room]:
    singles = [single for folder in folders for single in load_room(folder).at_receivers]
    if len(singles) < 2:
        raise InputError(f"{folders[0]} has one receiver; give a room of several, or several folders of one room")
    return [
        dataclasses.replace(single, room=singles[0].room, configuration=singles[0].configuration) for single in singles
    ]


def drawn(singles: list[Room], seed: int, shots: int | None) -> list[Room]:
    """The receivers with the training positions that a seed draws."""
    found = [single.with_splits(redraw(single.splits, seed)) for single in singles]
    return [
        single if shots is None else single.with_splits({**single.splits, "train": single.splits["train"][:shots]})
        for single in found
    ]


def errors_of(adapted: AdaptedRoom, name: str) -> dict[str, np.ndarray]:
    """Absolute errors at every test position, by metric."""
    row = next(row for row in adapted.report["rows"] if row["predictor"] == name)
    return {key: np.array(row["per_position"][key], dtype=float) for _, key, _, _ in METRICS}


def compare(singles: list[Room], seed: int, method: str) -> dict[str, dict[str, np.ndarray]]:
    """Errors by predictor and metric, of one receiver after the other."""
    settings, training, backbone = MethodSettings(method), TrainingSettings(seed=seed), load_backbone("small")
    every = adapt_room(together(singles), settings, training, backbone=backbone)
    found = {name: errors_of(every, name) for name in ("nearest", "energy", "backbone", LEVELS_ALONE)}
    found[ALL] = errors_of(every, str(every.name))
    alone = [adapt_room(single, settings, training, backbone=backbone) for single in singles]
    each = [errors_of(one, str(one.name)) for one in alone]
    return {**found, EACH: {key: np.concatenate([one[key] for one in each]) for key in each[0]}}


def main() -> None:
    args = parse_arguments()
    for seed in args.seeds:
        check_seed(seed)
    check_report(args.json, "compare-receivers")
    singles = views_of(args.rooms)
    per_seed = [compare(drawn(singles, seed, args.shots), seed, args.method) for seed in args.seeds]
    rows = [
        {
            "predictor": name,
            **{key: [float(np.nanmean(found[name][key])) for found in per_seed] for _, key, *_ in METRICS},
        }
        for name in per_seed[0]
    ]
    cells = [["predictor", *(title for title, *_ in METRICS)]]
    for row in rows:
        cells.append(
            [row["predictor"], *(figure(np.mean(row[key]), factor, digits) for _, key, factor, digits in METRICS)]
        )
    shots = len(drawn(singles, args.seeds[0], args.shots)[0].splits["train"])
    count = len(next(iter(per_seed[0].values()))["edt_s"])
    print(
        f"\n{singles[0].name}, {len(singles)} receivers: mean absolute errors at {count} test pairs, {shots} "
        f"measurements a receiver, seeds {' '.join(map(str, args.seeds))}\n\n{markdown(cells)}"
    )
    if args.json is not None:
        about = {
            "room": singles[0].name,
            "receivers": len(singles),
            "shots": shots,
            "seeds": args.seeds,
            "pairs": count,
        }
        print(write_report(args.json, "compare-receivers", {**about, "rows": rows}))


if __name__ == "__main__":
    with command():
        main()
