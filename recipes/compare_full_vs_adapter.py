"""Compare ways to adapt, full fine-tuning, nearest neighbour and interpolation: a study of rooms x runs x seeds.

    accelerate launch recipes/compare_full_vs_adapter.py --study recipes/studies/methods-r3vival.yaml

One JSON per run goes to OUT/runs (recipes/results/STUDY unless given), and a study that was stopped goes on where it
was. At the end OUT/README.md and its figures say what was better, worse or no different, with intervals. A study's file
names rooms, runs and seeds, and opens with its question; write your own beside those in recipes/studies, or give one of
them your rooms, which then name the results (results/studio-base-studio-panel-methods-r3vival):

    accelerate launch recipes/compare_full_vs_adapter.py --study recipes/studies/methods-r3vival.yaml
        --rooms studio/base studio/panel

On several cores or GPUs of this machine: --workers N (default: all). On a Ray cluster that is running: --executor ray.
`haa-peft study FILE` does the same, with results in ./results.
"""

import argparse
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.commands.parser import Parser

if __name__ == "__main__":
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                    example="python recipes/compare_full_vs_adapter.py --study recipes/studies/rates.yaml")  # fmt: skip
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="YAML file")
    with command("the same command goes on where it stopped"):
        from haa_peft.studies import command as study

        study.add_arguments(parser, "recipes/results")
        study.run(parser.parse_args(), Path(__file__).parent / "results")
