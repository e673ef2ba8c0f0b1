"""Training the network that tells a coarse panorama from a room's measurements alone, on simulated rooms.

Every room is drawn several times, with 3 to 12 of its 16 positions, some a few centimetres off, some measurements
noisy, the floor known or not; the last rooms validate, with 12 positions and nothing added but the levels' deviation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import platform
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from haa_peft.commands.outputs import check_writable
from haa_peft.errors import InputError
from haa_peft.files import write_atomically, write_json
from haa_peft.geometry.estimate.echo_maps import HEIGHT, LEVEL_ROWS, WIDTH
from haa_peft.geometry.estimate.network import PanoramaNetwork, load_network, panorama_loss
from haa_peft.geometry.panorama import solid_angles
from haa_peft.pretraining.echo_draws import draw_maps
from haa_peft.pretraining.settings import PanoramaTraining
from haa_peft.simulation.corpus import Corpus, about_corpus, simulate_corpus
from haa_peft.training.launch import start_accelerator
from haa_peft.training.schedule import warmup_cosine

SMOOTHED = 100
"""Steps whose mean loss is recorded."""


def run(training: PanoramaTraining, corpus: Path, out: Path, start: Path | None, workers: int | None) -> None:
    """Train the network.

    Parameters
    ----------
    training, corpus, out, start, workers : as :func:`haa_peft.pretraining.pretrain_panorama` takes them.
    """
    _check_files(out, start, workers)
    story = None if start is None else read_story(start)
    accelerator = start_accelerator(training.seed)
    network = PanoramaNetwork() if start is None else load_network(start)
    if accelerator.is_main_process:
        there = (corpus / "corpus.json").exists()
        simulate_corpus(corpus, training.count, about_corpus(corpus)["seed"] if there else training.seed, workers)
    accelerator.wait_for_everyone()
    numbers = range(training.count - training.validation_rooms)
    mine = numbers[accelerator.process_index :: accelerator.num_processes]
    opened, device = Corpus(corpus, training.count), accelerator.device
    drawn = make_maps(opened, mine, training.draws, training.seed, workers)
    tested = make_maps(opened, range(len(numbers), training.count), 1, training.seed, workers, plain=True)
    maps, depth = (part.to(device) for part in drawn)
    tests = tested[0].to(device), tested[1].to(device)
    learner = Learner(network.to(device), training, accelerator)
    records = Records(training, corpus, out, story)
    if accelerator.is_main_process:  # what the network is worth before it learns
        records.add(0, learner.network, tests)
    for step in tqdm(range(training.max_steps), disable=not accelerator.is_main_process):
        rng = np.random.default_rng((training.seed, step, accelerator.process_index))
        loss = learner.step(*draw_batch(maps, depth, training, rng))
        records.recent = [*records.recent[1 - SMOOTHED :], loss]
        done = step + 1
        if accelerator.is_main_process and (done % training.validate_every == 0 or done == training.max_steps):
            records.add(done, learner.network, tests)
    accelerator.end_training()


def _check_files(out: Path, start: Path | None, workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers} but must be at least 1")
    if start is not None and start.resolve() == out.resolve():
        raise InputError(f"--out is {str(out)!r}, which --start reads and --out would replace; give another file")
    if out.suffix != ".safetensors":
        raise InputError(f"--out is {str(out)!r} but must end in .safetensors")
    check_writable(out)


def read_story(weights: Path) -> dict[str, Any]:
    """What lies beside the weights that training goes on from; only their hash if it is of others.

    Raises
    ------
    InputError
        When nothing readable lies there.
    """
    try:
        found = dict(json.loads(weights.with_suffix(".json").read_text(encoding="utf-8")))
        content = hashlib.sha256(weights.read_bytes()).hexdigest()
        return found if found.get("sha256") == content else {"sha256": content}
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"--start is {str(weights)!r} but must be weights that this recipe wrote, their .json beside"
        ) from None


def make_maps(
    corpus: Corpus, rooms: range, draws: int, seed: int, workers: int | None, *, plain: bool = False
) -> tuple[Tensor, Tensor]:
    """Echo maps and true logarithmic depths of all draws, (n, CHANNELS, 16, 32) half precision and (n, 16, 32).

    Parameters
    ----------
    corpus, rooms : where they are drawn, and the numbers of the rooms.
    draws, seed, plain : as in :func:`~haa_peft.pretraining.echo_draws.draw_maps`.
    workers : processes; all cores unless given.
    """
    jobs = [(index, draw) for draw in range(draws) for index in rooms]
    made = partial(draw_maps, corpus, seed, plain)
    bar = partial(tqdm, total=len(jobs), desc="echo maps to validate" if plain else "echo maps", unit="map")
    if workers == 1:
        parts = list(bar(map(made, jobs)))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:  # forked threads of torch would hang
            parts = list(bar(pool.imap(made, jobs, chunksize=16)))
    maps, depths = zip(*parts, strict=True)
    return torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(depths))


def draw_batch(
    maps: Tensor, depth: Tensor, training: PanoramaTraining, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A batch of maps (B, CHANNELS, 16, 32) and depths (B, 16, 32), turned and mirrored alike, with levels off.

    Parameters
    ----------
    maps, depth : as :func:`make_maps` gives them.
    training : batch and deviation of the levels.
    rng : changed by drawing.
    """
    rows = torch.from_numpy(rng.integers(len(maps), size=training.batch)).to(maps.device)
    turn, mirror = int(rng.integers(WIDTH)), bool(rng.integers(2))
    x, y = (part[rows].float().roll(turn, -1) for part in (maps, depth))
    if mirror:
        x, y = x.flip(-1), y.flip(-1)
    off = torch.from_numpy(rng.normal(0, training.level_off, (training.batch, 1, 1, 1))).to(x)
    x[:, LEVEL_ROWS] = x[:, LEVEL_ROWS] + off
    return x, y


class Learner:
    """The network and its optimiser."""

    def __init__(self, network: PanoramaNetwork, training: PanoramaTraining, accelerator: Accelerator) -> None:
        self.network, self.accelerator = network, accelerator
        optimizer = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        steps = training.max_steps
        self.scheduler = LambdaLR(optimizer, warmup_cosine(min(200, -(-steps // 4)), steps))
        self.wrapped, self.optimizer = accelerator.prepare(network, optimizer)

    def step(self, maps: Tensor, depth: Tensor) -> Tensor:
        """One optimiser step on maps (B, CHANNELS, 16, 32) and depths (B, 16, 32); the loss, a scalar."""
        log_depth, log_scale = self.wrapped(maps)
        loss = panorama_loss(log_depth, log_scale, depth)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss.detach()


@torch.no_grad()
def validate(network: PanoramaNetwork, maps: Tensor, depth: Tensor, level_off: float) -> dict[str, float]:
    """Loss, and mean absolute logarithmic error of network and box, over the sphere and all maps, levels off too.

    Parameters
    ----------
    network : in evaluation mode.
    maps, depth : (n, CHANNELS, 16, 32) and (n, 16, 32).
    level_off : standard deviation of the levels in nepers.
    """
    maps = maps.clone()
    off = np.random.default_rng(0).normal(0, level_off, (len(maps), 1, 1, 1))
    maps[:, LEVEL_ROWS] = maps[:, LEVEL_ROWS] + torch.from_numpy(off).to(maps)
    weight = torch.from_numpy(solid_angles(HEIGHT, WIDTH)).to(depth)
    loss = error = box = 0.0
    for x, y in zip(maps.split(100), depth.split(100), strict=True):
        log_depth, log_scale = network(x.float())
        loss += panorama_loss(log_depth, log_scale, y).item() * len(x) / len(maps)
        error += ((log_depth - y).abs() * weight).sum().item() / len(maps)
        box += ((x[:, -1].float() - y).abs() * weight).sum().item() / len(maps)
    return {"validation": loss, "log_error": error, "log_error_of_box": box}


class Records:
    """What is kept of a run: its curve, the best weights, and the story of how they were made."""

    def __init__(self, training: PanoramaTraining, corpus: Path, out: Path, start: dict[str, Any] | None) -> None:
        self.training, self.out = training, out
        self.curve: list[dict[str, Any]] = []
        self.recent: list[Tensor] = []
        self.started = time.monotonic()
        options = dataclasses.asdict(training).items()
        packages = ("torch", "numpy", "accelerate")
        self.story: dict[str, Any] = {
            "made_with": "accelerate launch recipes/pretrain_panorama.py "
            + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options),
            "corpus": {**about_corpus(corpus), "rooms": training.count},
            "start": start,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }

    def add(self, done: int, network: PanoramaNetwork, tests: tuple[Tensor, Tensor]) -> None:
        """A point of the curve, and the weights if they are the best.

        Parameters
        ----------
        done : steps so far.
        network : to be validated.
        tests : maps (n, CHANNELS, 16, 32) and depths (n, 16, 32).

        Raises
        ------
        InputError
            When the loss is not finite.
        """
        network.eval()
        train = torch.stack(self.recent).mean().item() if self.recent else None
        self.curve.append({"step": done, "train": train, **validate(network, *tests, self.training.level_off)})
        network.train()
        loss = self.curve[-1]["validation"]
        tqdm.write("  ".join(f"{key} {value:.4g}" for key, value in self.curve[-1].items() if value is not None))
        if not np.isfinite(loss):
            raise InputError(f"the loss is {loss} at step {done}, what was best is kept; lower --lr")
        if loss == min(point["validation"] for point in self.curve):
            content = save({name: tensor.half().cpu() for name, tensor in network.state_dict().items()})
            write_atomically(self.out, content)
            self.story["sha256"] = hashlib.sha256(content).hexdigest()
        seconds = round(time.monotonic() - self.started)
        write_json(self.out.with_suffix(".json"), {**self.story, "curve": self.curve, "seconds": seconds})
