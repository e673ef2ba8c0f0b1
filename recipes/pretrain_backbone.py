"""Pretrain a backbone on simulated rooms.

One process, making the corpus first where rooms are missing, and going on where an earlier run stopped:

    accelerate launch recipes/pretrain_backbone.py --corpus corpus --rooms 3000 --out small.safetensors --resume

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
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import ConcatDataset
from tqdm import tqdm

import haa_peft
from haa_peft.acoustics.alignment import align
from haa_peft.acoustics.losses import training_loss
from haa_peft.acoustics.spectrogram import log_magnitude, magnitude
from haa_peft.adaptation.methods import UNUSED
from haa_peft.backbone.checkpoint import CONFIG_KEY, fingerprint
from haa_peft.backbone.config import XRIRConfig
from haa_peft.backbone.xrir import XRIR, RoomQueries
from haa_peft.errors import InputError, command
from haa_peft.files import check_writable, write_atomically, write_json
from haa_peft.rooms.acoustic_rooms import AcousticRooms
from haa_peft.rooms.corpus import Corpus, simulate_corpus
from haa_peft.rooms.drawing import SOURCES_PER_ROOM
from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
from haa_peft.training.launch import start_accelerator
from haa_peft.training.pretraining import Panoramas, PretrainingObjective, Rooms, draw_batch
from haa_peft.training.schedule import warmup_cosine

SMALL = XRIRConfig(
    panorama_pooling=4,
    patch_height=8,
    patch_width=16,
    width=128,
    depth=4,
    heads=4,
    head_width=32,
    feedforward=256,
    channels=128,
    resnet_width=16,
    normalisation="group",
    weighting="bounded",
    frame_gain=True,
    align_before_encoding=False,
    unused_modules=False,
)


CHECKPOINT = ("step", "curve", "best", "seconds", "recent", "backbone", "average", "optimizer", "scheduler")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of simulated rooms")
    parser.add_argument("--acoustic-rooms", type=Path, help="folder of AcousticRooms, whose training rooms are added")
    parser.add_argument("--rooms", type=int, default=3000, help="rooms to train and validate on")
    parser.add_argument("--validation-rooms", type=int, default=100, help="how many of them validate")
    parser.add_argument("--out", type=Path, default=Path("small.safetensors"), help="weights; a .json goes beside")
    parser.add_argument("--config", type=Path, help="JSON of XRIRConfig fields; the small network unless given")
    parser.add_argument("--max-steps", type=int, default=4000)
    parser.add_argument("--rooms-per-step", type=int, default=4, help="over all processes")
    parser.add_argument("--targets", type=int, default=12, help="positions predicted in each room")
    parser.add_argument("--k", type=int, default=8, help="most references; fewer are drawn as well")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the weights' moving average")
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from OUT.checkpoint if it is there")
    return parser.parse_args()


@torch.no_grad()
def validation_losses(
    model: XRIR, corpus: Rooms, panoramas: Panoramas, rooms: np.ndarray, k: int
) -> tuple[float, float]:
    """Loss of the model and of the nearest aligned reference, over the same seeded queries of unseen rooms."""
    ours, nearest = [], []
    for index in rooms:
        ((room, targets, references),) = draw_batch(
            corpus, panoramas, [index], np.random.default_rng((1, index)), 12, k, training=False
        )
        given = (room.panorama, room.rirs, room.positions, targets, references)
        query = RoomQueries(*(tensor.to(model.device) for tensor in given))
        true = magnitude(query.rirs[query.targets])
        ours.append(training_loss(model.forward_rooms([query])[0], true).mean().item())
        at_target, at_references = query.positions[query.targets], query.positions[query.references]
        closest = (at_references - at_target[:, None]).norm(dim=-1).argmin(dim=1, keepdim=True)
        chosen = query.references.gather(1, closest)
        aligned = align(query.rirs[chosen], query.positions[chosen], at_target)[:, 0]
        nearest.append(training_loss(log_magnitude(aligned), true).mean().item())
    return float(np.mean(ours)), float(np.mean(nearest))


def check_arguments(args: argparse.Namespace) -> None:
    training_rooms = args.rooms - args.validation_rooms
    for flag, least, most in (
        ("rooms", 2, 10**7),
        ("validation_rooms", 1, args.rooms - 1),
        ("rooms_per_step", 1, training_rooms),
        ("targets", 1, SOURCES_PER_ROOM),
        ("k", 1, SOURCES_PER_ROOM - 1),
        ("max_steps", 1, 10**9),
        ("validate_every", 1, 10**9),
        ("seed", 0, 2**32 - 1),
    ):
        if not least <= getattr(args, flag) <= most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from {least} to {most}")
    for flag, most in (("lr", 1.0), ("weight_decay", 100.0), ("ema", 1.0)):
        if not 0 <= getattr(args, flag) < most:
            name = flag.replace("_", "-")
            raise InputError(f"--{name} is {getattr(args, flag)} but must be from 0 to below {most:g}")
    check_writable(args.out)


def read_config(path: Path | None) -> XRIRConfig:
    if path is None:
        return SMALL
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path}: cannot be read as JSON ({error})") from None
    return XRIRConfig.from_dict(values, str(path))


def main() -> None:
    args = parse_arguments()
    check_arguments(args)
    config = read_config(args.config)
    accelerator = start_accelerator(args.seed)
    if args.rooms_per_step % accelerator.num_processes:
        raise InputError(
            f"--rooms-per-step is {args.rooms_per_step} but must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    if accelerator.is_main_process:
        simulate_corpus(args.corpus, args.rooms, args.seed)
    accelerator.wait_for_everyone()
    corpus: Rooms = Corpus(args.corpus, args.rooms)
    training_rooms = np.arange(args.rooms - args.validation_rooms)
    validation_rooms = np.arange(args.rooms - args.validation_rooms, args.rooms)
    if args.acoustic_rooms is not None:
        more = AcousticRooms(args.acoustic_rooms)
        corpus = ConcatDataset([corpus, more])
        training_rooms = np.concatenate([training_rooms, args.rooms + np.arange(len(more))])

    backbone = XRIR(config)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(not name.startswith(UNUSED))  # DDP waits for gradients that never come
    panoramas = Panoramas(corpus, config.panorama_pooling)
    average = copy.deepcopy(backbone).eval().requires_grad_(False).to(accelerator.device)
    objective = PretrainingObjective(backbone)
    decayed = [p for p in backbone.parameters() if p.ndim > 1]
    plain = [p for p in backbone.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
    )
    scheduler = LambdaLR(optimizer, warmup_cosine(100, args.max_steps))
    objective, optimizer = accelerator.prepare(objective, optimizer)

    checkpoint = args.out.with_suffix(".checkpoint")
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("resume", "out", "corpus")}
    step, curve, best, seconds = 0, [], float("inf"), 0.0
    recent: list[float] = []
    if args.resume and checkpoint.exists():
        state = load_checkpoint(checkpoint, settings, CHECKPOINT)
        backbone.load_state_dict(state["backbone"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        step, curve, best, seconds = state["step"], state["curve"], state["best"], state["seconds"]
        recent = state["recent"]
    started = time.monotonic() - seconds

    rank, share = accelerator.process_index, args.rooms_per_step // accelerator.num_processes
    bar = tqdm(
        range(step, args.max_steps),
        initial=step,
        total=args.max_steps,
        disable=not accelerator.is_main_process,
    )
    for step in bar:
        # all randomness comes from the step's number, so a resumed run draws what an unbroken one would
        rooms = np.random.default_rng((args.seed, step)).choice(training_rooms, args.rooms_per_step, replace=False)
        mine = rooms[rank * share : (rank + 1) * share]
        batch = draw_batch(
            corpus, panoramas, mine, np.random.default_rng((args.seed, step, rank)), args.targets, args.k, training=True
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
        recent = [*recent[-49:], loss.item()]
        bar.set_postfix(loss=f"{np.mean(recent):.4f}", best=f"{best:.4f}")
        done = step + 1
        if accelerator.is_main_process and (done % args.validate_every == 0 or done == args.max_steps):
            ours, nearest = validation_losses(average, corpus, panoramas, validation_rooms, args.k)
            curve.append({"step": done, "train": float(np.mean(recent)), "validation": ours, "nearest": nearest})
            tqdm.write(
                f"step {done}: train {np.mean(recent):.4f}  validation {ours:.4f}  nearest neighbour {nearest:.4f}"
            )
            seconds = time.monotonic() - started
            if ours < best:
                best = ours
                write_backbone(args, average, curve, seconds, args.rooms)
            save_checkpoint(
                checkpoint,
                {
                    "settings": settings,
                    "step": done,
                    "curve": curve,
                    "best": best,
                    "seconds": seconds,
                    "recent": recent,
                    "backbone": backbone.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                },
            )
    accelerator.end_training()


def write_backbone(args: argparse.Namespace, model: XRIR, curve: list[dict], seconds: float, rooms: int) -> None:
    """Weights with their configuration in the header, and beside them a JSON of how they were made."""
    config = dataclasses.asdict(model.config)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(args.out, save(tensors, metadata={CONFIG_KEY: json.dumps(config)}))
    write_json(
        args.out.with_suffix(".json"),
        {
            "made_with": "accelerate launch recipes/pretrain_backbone.py "
            + " ".join(
                itertools.chain.from_iterable(
                    (f"--{k.replace('_', '-')}", str(v))
                    for k, v in vars(args).items()
                    if k not in ("resume", "config", "out", "corpus", "acoustic_rooms")
                )
            ),
            "config": config,
            "fingerprint": fingerprint(model),
            "weights": sum(p.numel() for p in model.parameters()),
            "corpus": {
                "rooms": rooms,
                "acoustic_rooms": args.acoustic_rooms is not None,
                "validation_rooms": args.validation_rooms,
                "seed": args.seed,
                "sha256": Corpus(args.corpus, rooms).fingerprint(),
            },
            "curve": curve,
            "seconds": round(seconds),
            "versions": {
                "haa_peft": haa_peft.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )


if __name__ == "__main__":
    with command("the same command with --resume goes on from the last validation"):
        main()
