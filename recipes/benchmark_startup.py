"""How long commands take before they answer, as whole processes, beside `import torch` in the same rounds.

    python recipes/benchmark_startup.py

Every round runs every command once, in turn, since timings of a shared machine drift; the table has medians, and the
medians of what a round's run took over the round's `import torch`. `--other` times another checkout too, such as
`git worktree add ../before COMMIT` makes one. Nothing is asserted: the bars are for people to look at.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.commands.outputs import check_writable
from haa_peft.commands.tables import markdown
from haa_peft.errors import InputError
from haa_peft.files import write_json

HERE = Path(__file__).resolve().parents[1]
CLI = ["-m", "haa_peft.cli"]
TORCH = "import torch"


def commands(store: Path, name: str, folder: Path) -> dict[str, tuple[list[str], str]]:
    """What is timed: arguments for Python and the bar, by what it is called."""
    place = ["--store", str(store)]
    render = ["predict", name, "--position", "1", "1", "1", "--out", str(folder / "rir.wav"), *place]
    return {
        TORCH: (["-c", TORCH], ""),
        "import haa_peft": (["-c", "import torch, haa_peft"], "torch + 0.3 s"),
        "haa-peft --help": ([*CLI, "--help"], "0.5 s"),
        "haa-peft adapters list": ([*CLI, "adapters", "list", *place], "0.5 s"),
        "haa-peft adapters show": ([*CLI, "adapters", "show", name, *place], "0.5 s"),
        "haa-peft predict": ([*CLI, *render], "torch + 1.5 s"),
        "haa-peft adapters verify": ([*CLI, "adapters", "verify", *place], ""),
    }


def seconds(arguments: list[str], checkout: Path, folder: Path) -> float:
    """Wall time of one process, which must end well; in a folder without modules, which would come first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"python {' '.join(arguments)} ended with status {done.returncode} in {checkout}: {last}")
    return taken


def measure(args: argparse.Namespace) -> list[dict]:
    """Seconds of every round, one row a checkout and command; a first round, which fills caches, does not count."""
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(args.store.resolve(), args.name, Path(folder))
        checkouts = [HERE, *([args.other.resolve()] if args.other else [])]
        found: dict[tuple[Path, str], list[float]] = {(place, what): [] for place in checkouts for what in timed}
        for i in range(args.rounds + 1):
            for (place, what), taken in found.items():
                if what != TORCH or place == HERE:
                    taken += [seconds(timed[what][0], place, Path(folder))] * (i > 0)
    torch = found[HERE, TORCH]
    rows = []
    for (place, what), taken in found.items():
        if taken:
            over = statistics.median(a - b for a, b in zip(taken, torch, strict=True))
            ratio = statistics.median(a / b for a, b in zip(taken, torch, strict=True))
            rows.append({"checkout": "this" if place == HERE else "other", "command": what, "seconds": taken,
                         "over_torch": over, "ratio": ratio, "bar": timed[what][1]})  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """Medians for people."""
    lines = [["checkout", "command", "s", "over torch s", "ratio to torch", "bar"]]
    for row in rows:
        figures = (statistics.median(row["seconds"]), row["over_torch"], row["ratio"])
        lines.append([row["checkout"], row["command"], *(f"{figure:.2f}" for figure in figures), row["bar"] or "-"])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--store", type=Path, default=HERE / "adapters", help="default: the repository's adapters")
    parser.add_argument("--name", default="classroom-twin/base", help="adapter (default: %(default)s)")
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="time this one in the same rounds too")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    with command():
        if args.rounds < 1:
            raise InputError(f"--rounds is {args.rounds} but must be at least 1")
        if args.json is not None:
            check_writable(args.json)
        rows = measure(args)
        print(table(rows))
        if args.json is not None:
            write_json(args.json, rows)


if __name__ == "__main__":
    main()
