"""What a backbone is made of: networks that differ from `small` in one thing, pretrained alike for a short time.

    haa-peft pretrain simulate --count 900 --out corpus
    python recipes/compare_backbones.py --corpus corpus --out results

Every variant is a run of `pretrain_backbone.py` with its own weights, curve and checkpoint in --out; those that are
there already are not run again, and an interrupted one goes on. References aligned before they are encoded, as
published, cost so much that this variant gets fewer steps, of about the same time. The table is of all runs in --out:
run some variants with other --seed too: differences between seeds are chance.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from haa_peft.commands.ending import command
from haa_peft.commands.outputs import check_report, write_report
from haa_peft.commands.parser import Parser
from haa_peft.commands.tables import figure, markdown
from haa_peft.errors import InputError
from haa_peft.files import write_json

with command():  # where another package does not load, it is one line
    from haa_peft.pretraining.weights import SMALL

VARIANTS: dict[str, dict[str, Any]] = {
    "small": {},
    "ViT width 32": {"width": 32, "heads": 1, "feedforward": 64},
    "ViT width 128": {"width": 128, "heads": 4, "feedforward": 256},
    "ViT depth 1": {"depth": 1},
    "ViT depth 4": {"depth": 4},
    "panorama 16 x 32": {"panorama_pooling": 16, "patch_height": 2, "patch_width": 4},
    "panorama 64 x 128": {"panorama_pooling": 4, "patch_height": 8, "patch_width": 16},
    "ResNet width 4": {"resnet_width": 4},
    "ResNet width 16": {"resnet_width": 16},
    "no reflections": {"reflections": False},
    "aligned first": {"align_before_encoding": True},
}
"""Names, and in which fields of `XRIRConfig` they differ from `small`."""
FEWER = {"aligned first": 8}
"""How many times fewer steps."""
ERRORS = ("edt_s_of_nearest", "c50_db_of_nearest", "t60_percent_of_nearest")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--corpus", type=Path, required=True, help="folder that simulate wrote")
    parser.add_argument("--count", type=int, dest="rooms", default=900, help="of it (default: %(default)s)")
    parser.old_names = {"--rooms": "--count"}
    parser.add_argument("--validation-rooms", type=int, default=100, help="how many of them validate (%(default)s)")
    parser.add_argument("--rooms-per-step", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and results")
    parser.add_argument("--json", type=Path, help="write the results of all runs here")
    return parser.parse_args()


def run(name: str, args: argparse.Namespace) -> None:
    """Pretrain a variant, if that is not done."""
    folder = args.out / f"{name.replace(' ', '-')}-seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.json"
    write_json(config, VARIANTS[name])
    steps = args.steps // FEWER.get(name, 1)
    out = folder / "backbone.safetensors"
    settings = {
        "--count": args.rooms, "--max-steps": steps, "--validate-every": -(-steps // 4), "--seed": args.seed,
        "--validation-rooms": args.validation_rooms, "--rooms-per-step": args.rooms_per_step,
    }  # fmt: skip
    story = read(out.with_suffix(".json"))
    made_with = f"{story.get('made_with')} ".replace("--rooms ", "--count ")  # its name until version 0.1
    is_same = all(f"{flag} {value} " in made_with for flag, value in settings.items())
    is_same &= story.get("config") == dataclasses.asdict(dataclasses.replace(SMALL, **VARIANTS[name]))
    if is_same and story["curve"][-1]["step"] == steps:
        return
    recipe = Path(__file__).with_name("pretrain_backbone.py")
    options = {"--corpus": args.corpus, "--config": config, "--out": out, **settings}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", recipe, "--resume"]
    done = subprocess.run([*map(str, launch), *(str(part) for pair in options.items() for part in pair)])
    if done.returncode:
        raise InputError(f"pretraining of {name!r} failed; the same command goes on with it")


def read(path: Path) -> dict[str, Any]:
    """A run's story, empty if there is none."""
    try:
        story = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return story if isinstance(story, dict) and story.get("curve") else {}


def table(results: list[dict[str, Any]]) -> str:
    """Validation of all runs, the lowest loss first."""
    cells = [["network", "seed", "weights", "steps", "minutes", "loss", "EDT", "C50", "T60"]]
    for story in sorted(results, key=lambda story: story["curve"][-1]["validation"]):
        last = story["curve"][-1]
        errors = [figure(last[key], 1, 3) for key in ERRORS]
        about = [str(story[key]) for key in ("network", "seed", "weights")]
        cells.append(
            [*about, str(last["step"]), figure(story["seconds"] / 60), figure(last["validation"], 1, 4), *errors]
        )
    return markdown(cells)


def main() -> None:
    args = parse_arguments()
    for name in args.variants:
        if name not in VARIANTS:
            raise InputError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    if args.steps < max(FEWER.values()):
        raise InputError(f"--steps is {args.steps} but must be at least {max(FEWER.values())}")
    check_report(args.json, "compare-backbones")
    for name in args.variants or VARIANTS:
        run(name, args)
    results = []
    for name in VARIANTS:
        for path in sorted(args.out.glob(f"{name.replace(' ', '-')}-seed*/backbone.json")):
            seed = int(path.parent.name.rpartition("seed")[2])
            if story := read(path):
                results.append({"network": name, "seed": seed, **story})
    print(f"\nvalidation loss, and errors divided by nearest neighbour's\n\n{table(results)}")
    if args.json is not None:
        print(write_report(args.json, "compare-backbones", {"networks": results}))


if __name__ == "__main__":
    with command("the same command goes on"):
        main()
