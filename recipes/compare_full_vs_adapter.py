"""Compare ways to adapt, full fine-tuning, nearest neighbour and interpolation: a study of rooms x runs x seeds.

    accelerate launch recipes/compare_full_vs_adapter.py --study recipes/studies/methods-r3vival.yaml

One JSON per run goes to OUT/runs (recipes/results/STUDY unless given), and a study that was stopped goes on where it
was. At the end OUT/README.md and its figures say what was better, worse or no different, with intervals. A study's file
names rooms, runs and seeds, and opens with its question; write your own beside those in recipes/studies, or give one of
them your rooms, which then name the results (results/studio-base-studio-panel-methods-r3vival):

    accelerate launch recipes/compare_full_vs_adapter.py --study recipes/studies/methods-r3vival.yaml
        --rooms studio/base studio/panel

On several cores or GPUs of this machine: --workers N (default: all). On a Ray cluster that is running: --executor ray.
"""

import argparse
from pathlib import Path

from haa_peft.errors import InputError, command

with command():  # where another package does not load, it is one line
    from haa_peft.studies.execute import EXECUTORS, run_study
    from haa_peft.studies.read import load_study
    from haa_peft.studies.report import write_report
    from haa_peft.training.launch import start_accelerator


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="YAML file")
    parser.add_argument("--rooms", nargs="+", metavar="ROOM", default=[], help="room folders or names "
                        "instead of the study's; runs that name rooms of the study are left out")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of results (default: recipes/results/STUDY; "
                        "with --rooms results/ROOMS-STUDY)")  # fmt: skip
    parser.add_argument("--executor", choices=EXECUTORS, default="local", help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="runs at once (default: one for each GPU, or each core)")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report of what is there")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers} but must be at least 1")
    if start_accelerator(0).num_processes > 1:
        raise InputError("this recipe starts its own processes; leave --num_processes out and give --workers")
    study = load_study(args.study, args.rooms)
    for note in study.notes:
        print(note)
    out = args.out or (Path() if args.rooms else Path(__file__).parent) / "results" / study.name
    if not args.report_only:
        run_study(study, out, executor=args.executor, workers=args.workers)
    page = write_report(
        out, compare_with=study.compare_with, title=study.title, question=study.question, show=study.show or None,
        pairs=study.pairs,
    )  # fmt: skip
    print(f"\n{page}")


if __name__ == "__main__":
    with command("the same command goes on where it stopped"):
        main()
