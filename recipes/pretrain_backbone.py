"""Pretrain a backbone on simulated rooms.

One process, making the corpus first where rooms are missing, and going on where an earlier run stopped:

    accelerate launch recipes/pretrain_backbone.py --corpus corpus --count 5000 --out small.safetensors --resume

Several GPUs: `accelerate launch --multi_gpu --num_processes 4 recipes/pretrain_backbone.py ...`.
The validation rooms are the corpus' last; the weights kept are the moving average with the lowest validation loss.
"""

import argparse
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.commands.parser import Parser, add_setting
from haa_peft.fields import fields

with command():  # where another package does not load, it is one line
    from haa_peft.pretraining import pretrain_backbone
    from haa_peft.pretraining.settings import BackboneTraining


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.old_names = {"--rooms": "--count"}
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of simulated rooms")
    parser.add_argument("--acoustic-rooms", type=Path, help="folder of AcousticRooms, whose training rooms are added")
    parser.add_argument("--out", type=Path, default=Path("small.safetensors"), help="weights; a .json goes beside")
    parser.add_argument("--config", type=Path, help="JSON of XRIRConfig fields that differ from the small network's")
    parser.add_argument("--start", help="bundled name or file of a backbone to go on from (default: from nothing)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint if it is there")
    for name in fields(BackboneTraining):
        add_setting(parser, BackboneTraining, name)
    args = vars(parser.parse_args())
    training = BackboneTraining(**{name: args.pop(name) for name in fields(BackboneTraining)})
    pretrain_backbone(training, args.pop("corpus"), args.pop("out"), **args)


if __name__ == "__main__":
    with command("the same command with --resume goes on from the last validation"):
        main()
