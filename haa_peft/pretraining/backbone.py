"""Pretraining a backbone: the rooms, the steps, the validations, and the weights with the story of how they were made.

All randomness comes from the step's number, so a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.utils.data import ConcatDataset
from tqdm import tqdm

import haa_peft
from haa_peft.commands.outputs import check_writable
from haa_peft.errors import InputError
from haa_peft.files import write_json
from haa_peft.model.checkpoint import fingerprint, load_backbone
from haa_peft.model.config import XRIRConfig
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.acoustic_rooms import AcousticRooms
from haa_peft.pretraining.learner import Learner
from haa_peft.pretraining.loop import Drawn, PooledPanoramas, PretrainingObjective, Rooms, draw_batch
from haa_peft.pretraining.settings import BackboneTraining
from haa_peft.pretraining.unseen import evaluate_unseen
from haa_peft.pretraining.weights import SMALL, provenance, save_backbone
from haa_peft.simulation.corpus import Corpus, about_corpus, simulate_corpus
from haa_peft.simulation.draw import SOURCES_PER_ROOM
from haa_peft.training.checkpoint import load_checkpoint, save_checkpoint
from haa_peft.training.launch import start_accelerator

ERRORS = ("edt_s", "c50_db", "t60_percent")
SMOOTHED = 50
"""Steps whose mean loss is shown."""


class Files(NamedTuple):
    """What pretraining reads and writes; see :func:`haa_peft.pretraining.pretrain_backbone`."""

    corpus: Path
    out: Path
    acoustic_rooms: Path | None = None
    config: Path | None = None
    start: str | None = None

    @property
    def checkpoint(self) -> Path:
        """Of an unfinished run."""
        return self.out.with_suffix(".checkpoint")

    def check(self, *, resume: bool) -> None:
        """Raise ``InputError`` for files that contradict each other or are in the way."""
        if self.out.suffix != ".safetensors":
            raise InputError(f"--out is {str(self.out)!r} but must end in .safetensors")
        if self.start is not None and self.config is not None:
            raise InputError(
                f"--config {self.config}: a run that goes on from --start {self.start} has its configuration"
            )
        if self.start is not None and Path(self.start).resolve() == self.out.resolve():
            raise InputError(
                f"--out is {str(self.out)!r}, which --start reads and --out would replace; give another file"
            )
        if self.checkpoint.exists() and not resume:  # here, before the main process of this run may have written one
            raise InputError(
                f"{self.checkpoint} is of a run that --resume goes on with; delete it or give another --out"
            )
        check_writable(self.out)


class TrainingRooms(NamedTuple):
    """Rooms, the numbers of those that train and of those that validate, and what the corpus is."""

    rooms: Rooms
    training: np.ndarray
    validation: np.ndarray
    content: dict[str, Any]


def run(training: BackboneTraining, files: Files, *, resume: bool = False) -> None:
    """Pretrain a backbone; see :func:`haa_peft.pretraining.pretrain_backbone`.

    Raises
    ------
    InputError
        When something given is wrong, rooms are missing, or the loss is not finite.
    """
    files.check(resume=resume)
    begun, start = _read_start(files.start)
    config = read_config(files.config) if begun is None else begun.config
    accelerator = start_accelerator(training.seed)
    if training.rooms_per_step % accelerator.num_processes:
        raise InputError(
            f"--rooms-per-step is {training.rooms_per_step} but must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    rooms = open_rooms(training, files, accelerator)
    backbone = XRIR(config)
    if begun is not None:
        backbone.load_state_dict(begun.state_dict())
    learner = Learner(backbone, training, accelerator)
    records = Records(training, files, rooms, start, learner, accelerator)
    if resume and files.checkpoint.exists():
        records.resume()
    panoramas = PooledPanoramas(rooms.rooms, config.panorama_pooling)

    def measure(done: int) -> None:
        records.add(done, validate(learner.averaged, rooms.rooms, panoramas, rooms.validation, training.k))

    if not records.curve and accelerator.is_main_process:  # what the network is worth before it learns
        measure(0)
    first = records.step
    bar = tqdm(
        range(first, training.max_steps), initial=first, total=training.max_steps,
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    for step in bar:
        if step % training.validate_every == 0 and all_stalled(records.curve, training.patience, accelerator):
            break
        loss = learner.step(draw_step(training, rooms, panoramas, step, accelerator), step)
        records.recent = [*records.recent[1 - SMOOTHED :], loss]
        bar.set_postfix(loss=f"{np.mean(records.recent):.4f}")
        done = step + 1
        if accelerator.is_main_process and (done % training.validate_every == 0 or done == training.max_steps):
            measure(done)
    accelerator.end_training()


def _read_start(name: str | None) -> tuple[XRIR | None, dict[str, Any] | None]:
    """The backbone to go on from and its story."""
    if name is None:
        return None, None
    begun, story = load_backbone(name), provenance(name)
    if story.get("fingerprint") != fingerprint(begun):  # the story beside is of other weights
        story = {"fingerprint": fingerprint(begun)}
    return begun, story


def read_config(path: Path | None) -> XRIRConfig:
    """The small network's configuration with the fields that a JSON file changes.

    Raises
    ------
    InputError
        When the file cannot be read, or holds what is no field or may not be its value.
    """
    if path is None:
        return SMALL
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: is {values!r:.40} but must be a JSON object")
    return XRIRConfig.from_dict({**dataclasses.asdict(SMALL), **values}, str(path))


def open_rooms(training: BackboneTraining, files: Files, accelerator: Accelerator) -> TrainingRooms:
    """The corpus, made first where rooms are missing and one process runs, and AcousticRooms if they are given.

    Raises
    ------
    InputError
        When the corpus holds too few rooms for several processes.
    """
    count = training.count
    if accelerator.num_processes == 1:
        there = (files.corpus / "corpus.json").exists()
        simulate_corpus(files.corpus, count, about_corpus(files.corpus)["seed"] if there else training.seed)
    simulated = Corpus(files.corpus, count)
    if len(simulated) < count:
        raise InputError(
            f"{files.corpus} holds {len(simulated)} rooms; make {count} with `haa-peft pretrain simulate` first"
        )
    numbers, validation = np.split(np.arange(count), [count - training.validation_rooms])
    content = {"seed": simulated.about()["seed"], "sha256": simulated.fingerprint()}
    if files.acoustic_rooms is None:
        return TrainingRooms(simulated, numbers, validation, content)
    more = AcousticRooms(files.acoustic_rooms)
    datasets: list[Any] = [simulated, more]
    return TrainingRooms(
        ConcatDataset(datasets), np.concatenate([numbers, count + np.arange(len(more))]), validation, content
    )


def draw_step(
    training: BackboneTraining, rooms: TrainingRooms, panoramas: PooledPanoramas, step: int, accelerator: Accelerator
) -> list[Drawn]:
    """A process' share of a step's rooms, with what is asked of them.

    Parameters
    ----------
    training, rooms, panoramas : what is drawn, and from what.
    step : decides, with the seed, what is drawn.
    accelerator : knows which process this is, and of how many.
    """
    share = training.rooms_per_step // accelerator.num_processes
    rng = np.random.default_rng((training.seed, step))
    drawn = rng.choice(rooms.training, training.rooms_per_step, replace=False)
    rank = accelerator.process_index
    return draw_batch(
        rooms.rooms, panoramas, drawn[rank * share : (rank + 1) * share], (training.seed, step), training.targets,
        training.k, training=True, draws=training.draws,
    )  # fmt: skip


@torch.no_grad()
def validate(
    objective: PretrainingObjective, corpus: Rooms, panoramas: PooledPanoramas, rooms: np.ndarray, k: int
) -> dict[str, float]:
    """Loss and errors over seeded queries of unseen rooms, and the errors divided by the nearest neighbour's.

    Parameters
    ----------
    objective : of the backbone to be validated.
    corpus, panoramas : the rooms, and their panoramas.
    rooms : numbers (V,) of those that validate.
    k : references of each target.
    """
    losses = []
    for index in rooms:
        batch = draw_batch(corpus, panoramas, [index], (1,), SOURCES_PER_ROOM, k, training=False)
        losses.append(objective(batch).item())
    numbered = ((int(index), corpus[index]) for index in rooms)
    rows = evaluate_unseen(objective.backbone, numbered, lambda index, _: panoramas[index], ks=(k,), seed=1, iso=False)
    row = next(row for row in rows if row["predictor"] == "backbone")
    errors = {key: row[key] for key in ERRORS} | {f"{key}_of_nearest": row["of_nearest"][key] for key in ERRORS}
    return {"validation": float(np.mean(losses)), **errors}


def best_point(curve: list[dict]) -> dict:
    """The first point with the lowest validation loss."""
    return min(curve, key=lambda point: point["validation"])


def all_stalled(curve: list[dict], patience: int, accelerator: Accelerator) -> bool:
    """Whether the main process' curve has not fallen for a while; the same answer in all processes."""
    stalled = torch.zeros(1, device=accelerator.device)
    if accelerator.is_main_process:
        stalled[0] = len(curve) - 1 - curve.index(best_point(curve)) >= patience
    return bool(broadcast(stalled).item())


class Records:
    """What is kept of a run: its curve, the best weights and their story, and the checkpoint to go on from."""

    def __init__(
        self,
        training: BackboneTraining,
        files: Files,
        rooms: TrainingRooms,
        start: dict[str, Any] | None,
        learner: Learner,
        accelerator: Accelerator,
    ) -> None:
        self.training, self.files, self.rooms, self.start, self.learner = training, files, rooms, start, learner
        self.curve: list[dict[str, Any]] = []
        self.recent: list[float] = []
        self.step = 0
        self.started = time.monotonic()
        given = {**dataclasses.asdict(training), "acoustic_rooms": files.acoustic_rooms, "start": files.start}
        self.settings = {
            **{key: str(value) for key, value in given.items()},
            "precision": accelerator.mixed_precision,
            "sha256 of the corpus": rooms.content["sha256"],
            **dataclasses.asdict(learner.average.config),
        }

    def resume(self) -> None:
        """Go on from the checkpoint; raises ``InputError`` if it is damaged or of other settings."""
        parts = self.learner.parts()
        needed = ("step", "curve", "seconds", "recent", *parts)
        state = load_checkpoint(self.files.checkpoint, self.settings, needed)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.step, self.curve, self.recent = state["step"], state["curve"], state["recent"]
        self.started = time.monotonic() - state["seconds"]

    def add(self, done: int, point: dict[str, float]) -> None:
        """A point of the curve, the weights if they are the best, and where to go on from."""
        train = float(np.mean(self.recent)) if self.recent else None
        self.curve.append({"step": done, "train": train, **point})
        against = ", ".join(f"{key.split('_')[0].upper()} {point[f'{key}_of_nearest']:.2f}" for key in ERRORS)
        tqdm.write(
            f"step {done}: train {train or float('nan'):.4f}  validation {point['validation']:.4f}  "
            f"errors of nearest neighbour's: {against}"
        )
        if best_point(self.curve) == self.curve[-1]:
            save_backbone(self.learner.average, self.files.out)
        seconds = time.monotonic() - self.started
        write_json(self.files.out.with_suffix(".json"), self.story(seconds))
        state = {"step": done, "curve": self.curve, "seconds": seconds, "recent": self.recent}
        state |= {name: part.state_dict() for name, part in self.learner.parts().items()}
        save_checkpoint(self.files.checkpoint, {"settings": self.settings, **state})

    def story(self, seconds: float) -> dict[str, Any]:
        """How the weights in ``files.out`` were made."""
        given = {**dataclasses.asdict(self.training), **self.files._asdict()}
        command_line = itertools.chain.from_iterable(
            (f"--{name.replace('_', '-')}", Path(str(value)).name)  # folders are nobody's business
            for name, value in given.items()
            if name not in ("out", "corpus") and value is not None
        )
        config = self.learner.average.config
        return {
            "made_with": "accelerate launch recipes/pretrain_backbone.py " + " ".join(command_line),
            "config": dataclasses.asdict(config),
            "fingerprint": fingerprint(load_backbone(self.files.out)),
            "weights": sum(p.numel() for p in XRIR(config).parameters() if p.requires_grad),
            "best_step": best_point(self.curve)["step"],
            "start": self.start,
            "corpus": {
                "rooms": self.training.count,
                "acoustic_rooms": self.files.acoustic_rooms is not None,
                "validation_rooms": self.training.validation_rooms,
                **self.rooms.content,
            },
            "curve": self.curve,
            "seconds": round(seconds),
            "versions": {
                "haa_peft": haa_peft.__version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "numpy", "accelerate", "datasets", "pyroomacoustics")},
            },
        }
