"""Errors after four more measurements: where `haa-peft suggest` says, farthest from the others, and at random.

    python recipes/measure_next.py ../shared/data/haa-reconstruction/* --json recipes/results/measure-next.json

In each room levels are fitted to the twelve training measurements and the bundled backbone (no other training), four
more are chosen among the validation positions, levels are fitted again, and predictions are compared with what was
measured at up to 60 test positions. Random choices are drawn with seed 0.
"""

import argparse
from pathlib import Path

from haa_peft.commands.ending import command

with command():
    import numpy as np

    from haa_peft import load_backbone, load_room
    from haa_peft.acoustics import iso_metrics, paper_metrics
    from haa_peft.adapters.weights import BASE
    from haa_peft.files import write_json
    from haa_peft.inference.network import RoomNetwork
    from haa_peft.levels.fitting import fit_levels
    from haa_peft.maps.suggest import farthest, suggest
    from haa_peft.model.tensors import RoomTensors
    from haa_peft.rooms.room import Room

K, MORE, TESTED = 8, 4, 60
COLUMNS = ("edt_ms", "c50_db", "iso_c50_db")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", metavar="ROOM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    args = parser.parse_args()
    backbone = load_backbone("small")
    found = {}
    for path in args.rooms:
        room = load_room(path)
        found[room.name] = compare(room, backbone)
        for choice, errors in found[room.name].items():
            print(
                f"{room.name:24s} {choice:10s} " + "  ".join(f"{name} {errors[name]:6.2f}" for name in COLUMNS),
                flush=True,
            )
        if args.json is not None:
            write_json(args.json, found)
    print(table(found))


def table(found: dict) -> str:
    lines = ["| measurements | EDT ms | C50 dB | ISO C50 dB |", "|---|---:|---:|---:|"]
    for choice in next(iter(found.values())):
        means = [np.mean([room[choice][name] for room in found.values()]) for name in COLUMNS]
        lines.append(f"| {choice} | {means[0]:.1f} | {means[1]:.2f} | {means[2]:.2f} |")
    return "\n".join(lines)


def compare(room: Room, backbone) -> dict:
    train, valid, test = (room.splits[split] for split in ("train", "valid", "test"))
    test = test[np.linspace(0, len(test) - 1, min(TESTED, len(test))).astype(int)]
    network = RoomNetwork(backbone)
    levels = fit_levels(backbone, room, K)
    choices = {
        "12": train[:0],
        "suggested": valid[suggest(levels, room.positions[valid] - room.receiver, MORE)[0]],
        "farthest": valid[farthest(room.positions[train], room.positions[valid], MORE)],
        "random": np.random.default_rng(0).choice(valid, MORE, replace=False),
    }
    errors = {}
    for name, more in choices.items():
        own = room.with_splits({**room.splits, "train": np.concatenate([train, more])}) if len(more) else room
        known = fit_levels(backbone, own, K) if len(more) else levels
        encoded = network.encode(BASE, RoomTensors.of_room(own))._replace(levels=known)
        rirs = np.concatenate(list(network.stream(encoded, own.positions[test] - own.receiver, K, 0)))
        errors[name if name == "12" else f"12 + 4 {name}"] = errors_of(rirs, own.rirs[test])
    return errors


def errors_of(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Mean absolute errors of RIRs (N, 9600)."""
    one, other = (paper_metrics(rirs, 22_050) for rirs in (predicted, measured))
    clarity = [iso_metrics(rirs, 22_050, bands=())["broadband"]["c50_db"] for rirs in (predicted, measured)]
    return {
        "edt_ms": 1000 * float(np.nanmean(np.abs(one["edt_s"] - other["edt_s"]))),
        "c50_db": float(np.nanmean(np.abs(one["c50_db"] - other["c50_db"]))),
        "iso_c50_db": float(np.nanmean(np.abs(clarity[0] - clarity[1]))),
    }


if __name__ == "__main__":
    with command():
        main()
