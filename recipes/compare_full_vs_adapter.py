"""Compare adapters with full fine-tuning, nearest neighbour and linear interpolation in several rooms.

One JSON per room goes to OUT, and a run that was stopped goes on where it was:

    accelerate launch recipes/compare_full_vs_adapter.py --out results path/to/r3vival/000 path/to/hallwayPanel1

The table at the end holds mean absolute errors at test positions; weights are chosen at validation positions.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from tqdm import tqdm

from haa_peft import load_backbone, load_room
from haa_peft.adaptation.methods import METHODS, MethodSettings
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.errors import InputError, command
from haa_peft.evaluation.compare import compare
from haa_peft.evaluation.evaluate import check_split
from haa_peft.evaluation.report import figure, markdown
from haa_peft.files import check_writable, write_json
from haa_peft.finetune import candidate
from haa_peft.training.adapt import TrainingSettings, adapt
from haa_peft.training.launch import start_accelerator
from haa_peft.training.objective import check_k


def parse_arguments() -> argparse.Namespace:
    training = TrainingSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", metavar="ROOM", help="room folder, HAA folder or twin")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), help="none: no adaptation")
    parser.add_argument("--backbone", default="small", help="bundled name or checkpoint file (default: small)")
    parser.add_argument("--k", type=int, default=training.k, help="references a target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=training.seed, help="default: %(default)s")
    parser.add_argument("--max-steps", type=int, default=training.max_steps, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="peak learning rate, for one method alone (default: the method's)")
    parser.add_argument("--audible-decay", type=float, default=training.audible_decay, help="default: %(default)s")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="positions of the errors")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.lr is not None and len(args.methods) > 1:
        raise InputError("--lr is for one method; name it with --methods")
    accelerator = start_accelerator(args.seed)
    if accelerator.num_processes > 1:
        raise InputError("this recipe runs in one process; start it without --multi_gpu")
    backbone = load_backbone(args.backbone).to(accelerator.device)
    rooms = {}
    for folder in args.rooms:
        room = load_room(folder)
        check_k(args.k, len(room.splits["train"]), room.name)
        check_split(room, args.split)
        path = args.out / f"{room.room}-{room.configuration}-seed{args.seed}.json"
        check_writable(path)
        if path in rooms:
            raise InputError(f"{folder} is a second {room.name}; compare it in a run of its own, with another --out")
        rooms[path] = room
    methods = {name: MethodSettings(name) for name in args.methods}
    training = TrainingSettings(
        k=args.k, seed=args.seed, max_steps=args.max_steps, lr=args.lr, audible_decay=args.audible_decay
    )
    settings = {
        "backbone": fingerprint(backbone),
        "methods": {name: dataclasses.asdict(method) for name, method in methods.items()},
        "training": dataclasses.asdict(training),
        "split": args.split,
    }
    reports = []
    for path, room in tqdm(rooms.items(), desc="rooms", unit="room"):
        if path.exists():
            report = read_report(path)
            if report["settings"] != {**settings, "room": room.fingerprint}:
                raise InputError(f"{path} is of other settings or data; give another --out or remove it")
        else:
            runs = args.out / "runs" / path.stem
            adaptations = {
                name: adapt(backbone, room, method, training, accelerator, runs / name)
                for name, method in methods.items()
            }
            candidates = {name: candidate(backbone, adaptation) for name, adaptation in adaptations.items()}
            report = compare(room, backbone, candidates, args.k, args.seed, args.split)
            report = {
                "settings": {**settings, "room": room.fingerprint},
                "source": room.source,
                "validation": {name: adaptation.validation for name, adaptation in adaptations.items()},
                "torch": torch.__version__,
                **report,
            }
            write_json(path, report)
        reports.append(report)
        accelerator.free_memory()
    print("\n" + results_table(reports))


def read_report(path: Path) -> dict:
    """What an earlier run wrote."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {**report, "settings": report["settings"], "rows": list(report["rows"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no result of this recipe; give another --out or remove it") from None


def results_table(reports: list[dict]) -> str:
    """All rooms and predictors in one Markdown table."""
    cells = [["room", "predictor", "EDT ms", "C50 dB", "T60 %", "weights", "bytes", "seconds"]]
    for report in reports:
        for row in report["rows"]:
            cells.append(
                [
                    f"{report['room']}/{report['configuration']} ({report['positions']})",
                    row["predictor"],
                    figure(row["edt_s"], 1000),
                    figure(row["c50_db"], 1, 2),
                    figure(row["t60_percent"]),
                    str(row["trainable_parameters"]),
                    str(row["bytes"]),
                    figure(row.get("seconds"), 1, 0),
                ]
            )
    return markdown(cells)


if __name__ == "__main__":
    with command("the same command goes on with the next room"):
        main()
