"""Train the network that tells a coarse panorama from a room's measurements alone, on simulated rooms.

    accelerate launch recipes/pretrain_panorama.py --corpus corpus --count 5000 --out panorama.safetensors

Rooms that the corpus lacks are simulated first. Every room is drawn several times, with 3 to 12 of its 16 positions,
some a few centimetres off, some measurements noisy, the floor known or not; the last rooms validate, with 12 positions
and nothing added but the levels' deviation. The weights kept are those with the lowest validation loss. 5000 steps
take two minutes on a GPU, after the echo maps (0.06 s each and core; 3.4 GB of memory for 20 000). Several processes
each draw echo maps of their share of the rooms; let `haa-peft pretrain simulate` make the corpus first.
"""

import argparse
from pathlib import Path

from haa_peft.commands.ending import command
from haa_peft.commands.parser import Parser, add_setting
from haa_peft.fields import fields

with command():  # where another package does not load, it is one line
    from haa_peft.pretraining import pretrain_panorama
    from haa_peft.pretraining.settings import PanoramaTraining


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.old_names = {"--rooms": "--count"}
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of simulated rooms")
    parser.add_argument("--out", type=Path, default=Path("panorama.safetensors"), help="weights; a .json goes beside")
    parser.add_argument("--start", type=Path, help="weights to go on from (default: from nothing)")
    parser.add_argument("--workers", type=int, help="processes for echo maps and simulation (default: all cores)")
    for name in fields(PanoramaTraining):
        add_setting(parser, PanoramaTraining, name)
    args = vars(parser.parse_args())
    training = PanoramaTraining(**{name: args.pop(name) for name in fields(PanoramaTraining)})
    pretrain_panorama(training, args.pop("corpus"), args.pop("out"), **args)


if __name__ == "__main__":
    with command("run it again: simulated rooms are kept, training starts over"):
        main()
