"""Train the network that tells a coarse panorama from a room's measurements alone, on simulated rooms.

    accelerate launch recipes/pretrain_panorama.py --corpus corpus --count 5000 --out panorama.safetensors

Rooms that the corpus lacks are simulated first. Every room is drawn several times, with 3 to 12 of its 16 positions,
some a few centimetres off, some measurements noisy, the floor known or not; the last rooms validate, with 12 positions
and nothing added but the levels' deviation. The weights kept are those with the lowest validation loss. 5000 steps
take two minutes on a GPU, after the echo maps (0.06 s each and core; 3.4 GB of memory for 20 000). Several processes
each draw echo maps of their share of the rooms; let `haa-peft pretrain simulate` make the corpus first.
"""

import argparse
import hashlib
import json
import multiprocessing
import platform
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from haa_peft.arguments import Parser
from haa_peft.errors import InputError, check_seed, command

with command():  # where another package does not load, it is one line
    import numpy as np
    import torch
    from accelerate import Accelerator
    from safetensors.torch import save
    from torch import Tensor
    from torch.optim.lr_scheduler import LambdaLR
    from tqdm import tqdm

    from haa_peft.files import check_writable, write_atomically, write_json
    from haa_peft.geometry.estimate.echo_maps import HEIGHT, LEVELS, WIDTH
    from haa_peft.geometry.estimate.network import PanoramaNetwork, load_network, panorama_loss
    from haa_peft.geometry.panorama import solid_angles
    from haa_peft.pretraining.panoramas import draw_maps
    from haa_peft.simulation.corpus import Corpus, about_corpus, simulate_corpus
    from haa_peft.training.launch import start_accelerator
    from haa_peft.training.schedule import warmup_cosine


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of simulated rooms")
    parser.add_argument("--count", type=int, dest="rooms", default=5000, help="rooms to train and validate on")
    parser.old_names = {"--rooms": "--count"}
    parser.add_argument("--validation-rooms", type=int, default=200, help="how many of them validate")
    parser.add_argument("--draws", type=int, default=4, help="echo maps of each room")
    parser.add_argument("--out", type=Path, default=Path("panorama.safetensors"), help="weights; a .json goes beside")
    parser.add_argument("--start", type=Path, help="weights to go on from (default: from nothing)")
    parser.add_argument("--max-steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64, help="echo maps to a step and process")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=5e-2)
    parser.add_argument("--level-off", type=float, default=0.7, help="deviation in nepers of the levels after the "
                        "direct sound: loudspeakers radiate unevenly (%(default)s)")  # fmt: skip
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--workers", type=int, help="processes for echo maps and simulation (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of training, and of a corpus that is not there yet")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    check_seed(args.seed)
    if not 0 <= args.level_off <= 10:
        raise InputError(f"--level-off is {args.level_off} but must be from 0 to 10")
    for flag, least, most in (
        ("rooms", 2, 10**7),
        ("validation_rooms", 1, args.rooms - 1),
        ("draws", 1, 10**3),
        ("max_steps", 1, 10**9),
        ("batch", 1, 10**6),
        ("validate_every", 1, 10**9),
    ):
        if not least <= getattr(args, flag) <= most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from {least} to {most}")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers} but must be at least 1")
    for flag, most in (("lr", 1.0), ("weight_decay", 100.0)):
        if not 0 <= getattr(args, flag) < most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from 0 to below {most:g}")
    if args.start is not None and args.start.resolve() == args.out.resolve():
        raise InputError(f"--out is {str(args.out)!r}, which --start reads and --out would replace; give another file")
    if args.out.suffix != ".safetensors":
        raise InputError(f"--out is {str(args.out)!r} but must end in .safetensors")
    check_writable(args.out)


def read_story(weights: Path) -> dict[str, Any]:
    """What lies beside the weights that training goes on from; only their hash if it is of others."""
    try:
        found = dict(json.loads(weights.with_suffix(".json").read_text(encoding="utf-8")))
        content = hashlib.sha256(weights.read_bytes()).hexdigest()
        return found if found.get("sha256") == content else {"sha256": content}
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"--start is {str(weights)!r} but must be weights that this recipe wrote, their .json beside"
        ) from None


def make_maps(args: argparse.Namespace, rooms: range, draws: int, plain: bool, title: str) -> tuple[Tensor, Tensor]:
    """Of all draws of some rooms, (n, CHANNELS, 16, 32) half precision and (n, 16, 32)."""
    jobs = [(index, draw) for draw in range(draws) for index in rooms]
    made = partial(draw_maps, Corpus(args.corpus, args.rooms), args.seed, plain)
    bar = partial(tqdm, total=len(jobs), desc=title, unit="map")
    if args.workers == 1:
        parts = list(bar(map(made, jobs)))
    else:
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:  # forked threads of torch would hang
            parts = list(bar(pool.imap(made, jobs, chunksize=16)))
    maps, depths = zip(*parts, strict=True)
    return torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(depths))


@torch.no_grad()
def validate(network: PanoramaNetwork, maps: Tensor, depth: Tensor, level_off: float) -> dict[str, float]:
    """Loss, and mean absolute logarithmic error of network and box, over the sphere and all maps, levels off too."""
    maps = maps.clone()
    off = np.random.default_rng(0).normal(0, level_off, (len(maps), 1, 1, 1))
    maps[:, LEVELS] = maps[:, LEVELS] + torch.from_numpy(off).to(maps)
    weight = torch.from_numpy(solid_angles(HEIGHT, WIDTH)).to(depth)
    loss = error = box = 0.0
    for x, y in zip(maps.split(100), depth.split(100), strict=True):
        log_depth, log_scale = network(x.float())
        loss += panorama_loss(log_depth, log_scale, y).item() * len(x) / len(maps)
        error += ((log_depth - y).abs() * weight).sum().item() / len(maps)
        box += ((x[:, -1].float() - y).abs() * weight).sum().item() / len(maps)
    return {"validation": loss, "log_error": error, "log_error_of_box": box}


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    start = None if args.start is None else read_story(args.start)
    network = PanoramaNetwork() if args.start is None else load_network(args.start)
    accelerator: Accelerator = start_accelerator(args.seed)
    if accelerator.is_main_process:
        there = (args.corpus / "corpus.json").exists()
        simulate_corpus(
            args.corpus, args.rooms, about_corpus(args.corpus)["seed"] if there else args.seed, args.workers
        )
    accelerator.wait_for_everyone()
    training = range(args.rooms - args.validation_rooms)
    mine = training[accelerator.process_index :: accelerator.num_processes]
    maps, depth = make_maps(args, mine, args.draws, False, "echo maps")
    tests = make_maps(args, range(len(training), args.rooms), 1, True, "echo maps to validate")
    device = accelerator.device
    maps, depth, tests = maps.to(device), depth.to(device), tuple(part.to(device) for part in tests)
    network = network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    scheduler = LambdaLR(optimizer, warmup_cosine(min(200, -(-args.max_steps // 4)), args.max_steps))
    wrapped, optimizer = accelerator.prepare(network, optimizer)
    about = story(args, start)
    curve: list[dict[str, Any]] = []
    recent: list[Tensor] = []
    started = time.monotonic()

    def measure(done: int) -> None:
        """A point of the curve, and the weights if they are the best."""
        network.eval()
        train = torch.stack(recent).mean().item() if recent else None
        curve.append({"step": done, "train": train, **validate(network, *tests, args.level_off)})
        network.train()
        tqdm.write("  ".join(f"{key} {value:.4g}" for key, value in curve[-1].items() if value is not None))
        if not np.isfinite(curve[-1]["validation"]):
            raise InputError(f"the loss is {curve[-1]['validation']} at step {done}, what was best is kept; lower --lr")
        if curve[-1]["validation"] == min(point["validation"] for point in curve):
            half = {name: tensor.half().cpu() for name, tensor in network.state_dict().items()}
            content = save(half)
            write_atomically(args.out, content)
            about["sha256"] = hashlib.sha256(content).hexdigest()
        write_json(
            args.out.with_suffix(".json"), {**about, "curve": curve, "seconds": round(time.monotonic() - started)}
        )

    if accelerator.is_main_process:  # what the network is worth before it learns
        measure(0)
    bar = tqdm(range(args.max_steps), disable=not accelerator.is_main_process)
    for step in bar:
        rng = np.random.default_rng((args.seed, step, accelerator.process_index))
        rows = torch.from_numpy(rng.integers(len(maps), size=args.batch)).to(device)
        turn, mirror = int(rng.integers(WIDTH)), bool(rng.integers(2))
        x, y = (part[rows].float().roll(turn, -1) for part in (maps, depth))
        if mirror:
            x, y = x.flip(-1), y.flip(-1)
        off = torch.from_numpy(rng.normal(0, args.level_off, (args.batch, 1, 1, 1))).to(x)
        x[:, LEVELS] = x[:, LEVELS] + off
        loss = panorama_loss(*wrapped(x), y)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        recent = [*recent[-99:], loss.detach()]
        done = step + 1
        if accelerator.is_main_process and (done % args.validate_every == 0 or done == args.max_steps):
            measure(done)
    accelerator.end_training()


def story(args: argparse.Namespace, start: dict[str, Any] | None) -> dict[str, Any]:
    """How the weights are made."""
    options = {key: value for key, value in vars(args).items() if key not in ("corpus", "out", "workers", "start")}
    return {
        "made_with": "accelerate launch recipes/pretrain_panorama.py "
        + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items()),
        "corpus": {**about_corpus(args.corpus), "rooms": args.rooms},
        "start": start,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "numpy", "accelerate")}},
    }


if __name__ == "__main__":
    with command("run it again: simulated rooms are kept, training starts over"):
        main()
