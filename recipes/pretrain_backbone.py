"""Pretrain a backbone on simulated rooms.

One process, making the corpus first where rooms are missing, and going on where an earlier run stopped:

    accelerate launch recipes/pretrain_backbone.py --corpus corpus --count 5000 --out small.safetensors --resume

Several GPUs: `accelerate launch --multi_gpu --num_processes 4 recipes/pretrain_backbone.py ...`.
The validation rooms are the corpus' last; the weights kept are the moving average with the lowest validation loss.
"""

import argparse
import copy
import dataclasses
import itertools
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

from haa_peft.arguments import Parser
from haa_peft.errors import InputError, command

with command():  # where another package does not load, it is one line
    import numpy as np
    import torch
    from accelerate import Accelerator
    from accelerate.utils import broadcast
    from torch.optim.lr_scheduler import LambdaLR
    from torch.utils.data import ConcatDataset
    from tqdm import tqdm

    import haa_peft
    from haa_peft.adapters.layers import SURFACES, UNUSED
    from haa_peft.files import check_writable, write_json
    from haa_peft.model.checkpoint import fingerprint, load_backbone, provenance, save_backbone
    from haa_peft.model.config import SMALL, XRIRConfig
    from haa_peft.model.xrir import XRIR
    from haa_peft.pretraining.acoustic_rooms import AcousticRooms
    from haa_peft.pretraining.loop import Panoramas, PretrainingObjective, Rooms, draw_batch
    from haa_peft.pretraining.unseen import evaluate_unseen
    from haa_peft.simulation.corpus import Corpus, about_corpus, simulate_corpus
    from haa_peft.simulation.draw import SOURCES_PER_ROOM
    from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
    from haa_peft.training.launch import start_accelerator
    from haa_peft.training.schedule import warmup_cosine

ERRORS = ("edt_s", "c50_db", "t60_percent")
CHECKPOINT = ("step", "curve", "seconds", "recent", "backbone", "average", "optimizer", "scheduler")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of simulated rooms")
    parser.add_argument("--acoustic-rooms", type=Path, help="folder of AcousticRooms, whose training rooms are added")
    parser.add_argument("--count", type=int, dest="rooms", default=5000, help="rooms to train and validate on")
    parser.old_names = {"--rooms": "--count"}
    parser.add_argument("--validation-rooms", type=int, default=100, help="how many of them validate")
    parser.add_argument("--out", type=Path, default=Path("small.safetensors"), help="weights; a .json goes beside")
    parser.add_argument("--config", type=Path, help="JSON of XRIRConfig fields that differ from the small network's")
    parser.add_argument("--start", help="bundled name or file of a backbone to go on from (default: from nothing)")
    parser.add_argument("--max-steps", type=int, default=7500)
    parser.add_argument("--rooms-per-step", type=int, default=8, help="over all processes")
    parser.add_argument("--targets", type=int, default=SOURCES_PER_ROOM, help="positions predicted in each room")
    parser.add_argument("--draws", type=int, default=2, help="of references for each of them")
    parser.add_argument("--k", type=int, default=8, help="most references; fewer are drawn as well")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--patience", type=int, default=10, help="validations without a lower loss before it stops")
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the weights' moving average")
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of training, and of a corpus that is not there yet")
    parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint if it is there")
    return parser.parse_args()


@torch.no_grad()
def validate(
    objective: PretrainingObjective, corpus: Rooms, panoramas: Panoramas, rooms: np.ndarray, k: int
) -> dict[str, float]:
    """Loss and errors over seeded queries of unseen rooms, and the errors divided by the nearest neighbour's."""
    losses = []
    for index in rooms:
        batch = draw_batch(corpus, panoramas, [index], (1,), SOURCES_PER_ROOM, k, training=False)
        losses.append(objective(batch).item())
    numbered = ((int(index), corpus[index]) for index in rooms)
    rows = evaluate_unseen(objective.backbone, numbered, lambda index, _: panoramas[index], ks=(k,), seed=1, iso=False)
    row = next(row for row in rows if row["predictor"] == "backbone")
    errors = {key: row[key] for key in ERRORS} | {f"{key}_of_nearest": row["of_nearest"][key] for key in ERRORS}
    return {"validation": float(np.mean(losses)), **errors}


def report(point: dict[str, float]) -> None:
    """A line about a point of the curve."""
    against = ", ".join(f"{key.split('_')[0].upper()} {point[f'{key}_of_nearest']:.2f}" for key in ERRORS)
    tqdm.write(
        f"step {point['step']}: train {point['train'] or float('nan'):.4f}  validation {point['validation']:.4f}  "
        f"errors of nearest neighbour's: {against}"
    )


def check_arguments(args: argparse.Namespace) -> None:
    training_rooms = args.rooms - args.validation_rooms
    for flag, least, most in (
        ("rooms", 2, 10**7),
        ("validation_rooms", 1, args.rooms - 1),
        ("rooms_per_step", 1, training_rooms),
        ("targets", 1, SOURCES_PER_ROOM),
        ("draws", 1, 10**4),
        ("k", 1, SOURCES_PER_ROOM - 1),
        ("max_steps", 1, 10**9),
        ("validate_every", 1, 10**9),
        ("patience", 1, 10**9),
        ("seed", 0, 2**32 - 1),
    ):
        if not least <= getattr(args, flag) <= most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from {least} to {most}")
    for flag, most in (("lr", 1.0), ("weight_decay", 100.0), ("ema", 1.0)):
        if not 0 <= getattr(args, flag) < most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from 0 to below {most:g}")
    if args.out.suffix != ".safetensors":
        raise InputError(f"--out is {str(args.out)!r} but must end in .safetensors")
    if args.start is not None and args.config is not None:
        raise InputError(f"--config {args.config}: a run that goes on from --start {args.start} has its configuration")
    if args.start is not None and Path(args.start).resolve() == args.out.resolve():
        raise InputError(f"--out is {str(args.out)!r}, which --start reads and --out would replace; give another file")
    checkpoint = args.out.with_suffix(".checkpoint")
    if checkpoint.exists() and not args.resume:  # here, before the main process of this run may have written one
        raise InputError(f"{checkpoint} is of a run that --resume goes on with; delete it or give another --out")
    check_writable(args.out)


def read_config(path: Path | None) -> XRIRConfig:
    if path is None:
        return SMALL
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: is {values!r:.40} but must be a JSON object")
    return XRIRConfig.from_dict({**dataclasses.asdict(SMALL), **values}, str(path))


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    begun = start = None
    if args.start is not None:
        begun, start = load_backbone(args.start), provenance(args.start)
        if start.get("fingerprint") != fingerprint(begun):  # the story beside is of other weights
            start = {"fingerprint": fingerprint(begun)}
    config = read_config(args.config) if begun is None else begun.config
    accelerator = start_accelerator(args.seed)
    if args.rooms_per_step % accelerator.num_processes:
        raise InputError(
            f"--rooms-per-step is {args.rooms_per_step} but must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    if accelerator.num_processes == 1:
        there = (args.corpus / "corpus.json").exists()
        simulate_corpus(args.corpus, args.rooms, about_corpus(args.corpus)["seed"] if there else args.seed)
    simulated = Corpus(args.corpus, args.rooms)
    if len(simulated) < args.rooms:
        raise InputError(
            f"{args.corpus} holds {len(simulated)} rooms; make {args.rooms} with `haa-peft pretrain simulate` first"
        )
    corpus: Rooms = simulated
    training_rooms = np.arange(args.rooms - args.validation_rooms)
    validation_rooms = np.arange(args.rooms - args.validation_rooms, args.rooms)
    if args.acoustic_rooms is not None:
        more = AcousticRooms(args.acoustic_rooms)
        corpus = ConcatDataset([corpus, more])
        training_rooms = np.concatenate([training_rooms, args.rooms + np.arange(len(more))])

    backbone = XRIR(config)
    if begun is not None:
        backbone.load_state_dict(begun.state_dict())
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(not name.startswith((*UNUSED, SURFACES)))  # DDP waits for gradients that never come
    panoramas = Panoramas(corpus, config.panorama_pooling)
    average = copy.deepcopy(backbone).eval().requires_grad_(False).to(accelerator.device)
    objective, averaged = PretrainingObjective(backbone), PretrainingObjective(average)
    decayed = [p for p in backbone.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in backbone.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
    )
    scheduler = LambdaLR(optimizer, warmup_cosine(min(100, -(-args.max_steps // 4)), args.max_steps))
    objective, optimizer = accelerator.prepare(objective, optimizer)

    checkpoint = args.out.with_suffix(".checkpoint")
    content = {"seed": simulated.about()["seed"], "sha256": simulated.fingerprint()}
    settings = {
        key: str(value) for key, value in vars(args).items() if key not in ("resume", "out", "corpus", "config")
    }
    settings |= {
        "precision": accelerator.mixed_precision,
        "sha256 of the corpus": content["sha256"],
        **dataclasses.asdict(config),
    }
    step, curve, seconds = 0, [], 0.0
    recent: list[float] = []
    if args.resume and checkpoint.exists():
        state = load_checkpoint(checkpoint, settings, CHECKPOINT)
        backbone.load_state_dict(state["backbone"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        step, curve, seconds, recent = state["step"], state["curve"], state["seconds"], state["recent"]
    started = time.monotonic() - seconds

    def measure(done: int) -> None:
        """A point of the curve, the weights if they are the best, and where to go on from."""
        point = validate(averaged, corpus, panoramas, validation_rooms, args.k)
        curve.append({"step": done, "train": float(np.mean(recent)) if recent else None, **point})
        report(curve[-1])
        if best_point(curve) == curve[-1]:
            save_backbone(average, args.out)
        seconds = time.monotonic() - started
        write_story(args, average.config, fingerprint(load_backbone(args.out)), content, curve, seconds, start)
        save_checkpoint(
            checkpoint,
            {
                "settings": settings,
                "step": done,
                "curve": curve,
                "seconds": seconds,
                "recent": recent,
                "backbone": backbone.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
            },
        )

    if not curve and accelerator.is_main_process:  # what the network is worth before it learns
        measure(0)
    rank, share = accelerator.process_index, args.rooms_per_step // accelerator.num_processes
    bar = tqdm(
        range(step, args.max_steps),
        initial=step,
        total=args.max_steps,
        disable=not accelerator.is_main_process,
    )
    for step in bar:
        if step % args.validate_every == 0 and all_stalled(curve, args.patience, accelerator):
            break
        # all randomness comes from the step's number, so a resumed run draws what an unbroken one would
        rooms = np.random.default_rng((args.seed, step)).choice(training_rooms, args.rooms_per_step, replace=False)
        mine = rooms[rank * share : (rank + 1) * share]
        batch = draw_batch(
            corpus,
            panoramas,
            mine,
            (args.seed, step),
            args.targets,
            args.k,
            training=True,
            draws=args.draws,
        )
        loss = objective(batch)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        # the average follows faster at the start, where the weights still move far
        decay = min(args.ema, (step + 1) / (step + 10))
        for kept, new in zip(average.parameters(), backbone.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - decay)
        for kept, new in zip(average.buffers(), backbone.buffers(), strict=True):
            kept.copy_(new)
        mean = accelerator.reduce(loss.detach(), "mean").item()
        if not np.isfinite(mean):
            raise InputError(f"the loss is {mean} at step {step + 1}, after which nothing can be learned; lower --lr")
        recent = [*recent[-49:], mean]
        bar.set_postfix(loss=f"{np.mean(recent):.4f}")
        done = step + 1
        if accelerator.is_main_process and (done % args.validate_every == 0 or done == args.max_steps):
            measure(done)
    accelerator.end_training()


def best_point(curve: list[dict]) -> dict:
    """The first point with the lowest validation loss."""
    return min(curve, key=lambda point: point["validation"])


def all_stalled(curve: list[dict], patience: int, accelerator: Accelerator) -> bool:
    """Whether the main process' curve has not fallen for a while; the same answer in all processes."""
    stalled = torch.zeros(1, device=accelerator.device)
    if accelerator.is_main_process:
        stalled[0] = len(curve) - 1 - curve.index(best_point(curve)) >= patience
    return bool(broadcast(stalled).item())


def write_story(
    args: argparse.Namespace,
    config: XRIRConfig,
    weights: str,
    corpus: dict,
    curve: list[dict],
    seconds: float,
    start: dict | None,
) -> None:
    """How the weights with the fingerprint ``weights`` were made, from a ``corpus`` of a seed and hash, beside them."""
    command_line = itertools.chain.from_iterable(
        (f"--{name.replace('_', '-')}", Path(str(value)).name)  # folders are nobody's business
        for name, value in vars(args).items()
        if name not in ("resume", "out", "corpus") and value is not None
    )
    write_json(
        args.out.with_suffix(".json"),
        {
            "made_with": "accelerate launch recipes/pretrain_backbone.py " + " ".join(command_line),
            "config": dataclasses.asdict(config),
            "fingerprint": weights,
            "weights": sum(p.numel() for p in XRIR(config).parameters() if p.requires_grad),
            "best_step": best_point(curve)["step"],
            "start": start,
            "corpus": {
                "rooms": args.rooms,
                "acoustic_rooms": args.acoustic_rooms is not None,
                "validation_rooms": args.validation_rooms,
                **corpus,
            },
            "curve": curve,
            "seconds": round(seconds),
            "versions": {
                "haa_peft": haa_peft.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "numpy", "accelerate", "datasets", "pyroomacoustics")},
            },
        },
    )


if __name__ == "__main__":
    with command("the same command with --resume goes on from the last validation"):
        main()
