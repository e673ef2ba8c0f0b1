"""How fast training steps, predictions and swaps are: against the plain computation, and against the machine's floor.

    python recipes/benchmark.py --json benchmark.json

Everything is timed in rounds, each case once a round, and given as ratios within rounds, since timings of a shared
machine drift. The plain computation is `haa_peft.oracle`: 2 + K passes of the ViT and K of the ResNet per
target, as published. Sizes are the bundled backbone and the published one (random weights: time does not depend on
them). Rooms are made up from the embedded twin's. `times floor` is the time over what the counted operations would
take at the rate of a large matrix product, or for swaps the bytes at that of a large copy, both timed here.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.errors import InputError

with command():  # where another package does not load, it is one line
    import torch
    from benchmarking.cases import K, published_griffin_lim
    from benchmarking.computing import growth, predictions, training
    from benchmarking.memory import memory, memory_of
    from benchmarking.switching import several_rooms, swaps

    from haa_peft.commands.outputs import check_report, write_report
    from haa_peft.commands.tables import markdown

PARTS = {
    "training": training,
    "predictions": predictions,
    "swaps": swaps,
    "rooms": several_rooms,
    "memory": memory,
    "growth": growth,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--sizes", nargs="+", choices=("small", "published"), default=["small", "published"])
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--memory-of", nargs=3, metavar=("CASE", "SIZE", "DEVICE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def cell(name: str, value: float | None) -> str:
    """A figure with the digits that its size deserves."""
    if value is None:
        return "-"
    if name in ("operations", "operations_per_position"):
        return f"{value / 1e9:.2f} G"
    if name == "bytes":
        return f"{value / 1e6:.2f} M"
    return f"{value:.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit that the benchmark is of, with a + if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    return found.stdout.strip() + "+" * (changed == 1) if found.returncode == 0 else None


def main() -> None:
    args = parse_arguments()
    if args.memory_of:
        memory_of(*args.memory_of)
        return
    if args.rounds < 1:
        raise InputError(f"--rounds is {args.rounds} but must be at least 1")
    if "predictions" in args.parts:
        published_griffin_lim()
    check_report(args.json, "benchmark")
    threads = torch.get_num_threads()
    report: dict = {
        "torch": torch.__version__,
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit(),
        "threads": threads,
        "k": K,
        "rounds": args.rounds,
        "results": [],
    }
    for device in args.devices:
        for size in args.sizes:
            for part in args.parts:
                print(f"\n{size} on {device}, {threads} threads: {part}. {PARTS[part].__doc__}\n", flush=True)
                found = PARTS[part](size, device, args.rounds)
                names = list(next(iter(found["rows"].values())))
                table = [["case", *(name.replace("_", " ") for name in names)]]
                table += [[case, *(cell(n, row.get(n)) for n in names)] for case, row in found["rows"].items()]
                print(markdown(table), flush=True)
                report["results"].append({"size": size, "device": device, "part": part, **found})
                if args.json is not None:
                    write_report(args.json, "benchmark", report)


if __name__ == "__main__":
    with command("finished parts are in the JSON file, if one was asked for"):
        main()
