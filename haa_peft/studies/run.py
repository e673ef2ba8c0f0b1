"""One run of a study: adapt, predict, measure."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.adapters.combine import Stored, blend_adapters
from haa_peft.adapters.methods import MethodSettings, attach, attach_stored
from haa_peft.borrowing import borrow_if_better
from haa_peft.evaluation.baselines import baselines
from haa_peft.evaluation.evaluate import Metrics, errors
from haa_peft.levels.fitting import fit_levels
from haa_peft.levels.room import RoomLevels
from haa_peft.main_job import adapt_room, checked
from haa_peft.model.checkpoint import fingerprint, load_backbone
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.studies.assumptions import Assumption
from haa_peft.studies.keys import fingerprint_of_room, job_settings, training_of
from haa_peft.studies.plan import Job, RunSpec, Study, assumed_room, channels_of
from haa_peft.training.adapt import adapt
from haa_peft.training.loop import Adaptation, Start

NO_LEVELS = MethodSettings(levels="none")
CURVES = 3
"""Positions whose decay curves are kept: nearest to, midmost and farthest from the receiver."""
CURVE_STEP = 0.005
"""Seconds."""
OUTLINE_STEP = 4
"""Columns of a panorama to a segment of its floor plan."""


NOTHING: dict[str, Any] = {
    "group": "baseline",
    "trained_on": None,
    "trainable_parameters": 0,
    "bytes": 0,
    "seconds": None,
    "best_step": None,
    "steps": None,
    "validation": [],
}
"""What is said of a predictor that was not trained here."""


class Outcome(NamedTuple):
    """What a job gives: JSON of every test, and the adapter with what it lies on top of merged in, if it made one."""

    tests: list[dict[str, Any]]
    adapter: Stored | None = None


def run_job(study: Study, job: Job, needed: Mapping[Job, Stored], device: str | None = None) -> Outcome:
    """Adapt to a job's room and test it.

    Parameters
    ----------
    study, job : what to do.
    needed : the adapters that :func:`~haa_peft.studies.plan.sources_of` names.
    device : where to compute; the CPU unless given.
    """
    device = device or "cpu"
    backbone = load_backbone(study.backbone).to(device)
    room = study.room(job.room, job.seed, job.shots, job.run)
    if not job.run:
        return _run_baselines(study, job, room, backbone)
    spec, channels = study.runs[job.run], channels_of(study, job)
    room = room.with_channels(channels)
    lender = spec.lender(room.room, room.configuration)
    if lender:
        other = study.room(lender, job.seed, max(study.shots), job.run)
        training = training_of(study, job)
        room = borrow_if_better(room, other, backbone, study.k, audible_decay=training.audible_decay,
                                validation=training.validation)  # fmt: skip
    if not spec.adapt:
        about = {"run": spec.name, "label": spec.label, **NOTHING, "settings": _settings(study, spec, job, room)}
        predicted = _predict(study, job, room, backbone, None, spec.method)
        return Outcome([_report(study, job, room, backbone, predicted, about)], nothing_learned(backbone))
    facts, adapter = _make_adapter(study, spec, job, room, list(needed.values()), backbone)
    tests = []
    others = [name for name in study.rooms if spec.transfer and name != job.room and name.startswith(f"{room.room}/")]
    unchanged = facts["best_step"] == 0 and not (needed or spec.first_stage)
    for name in (job.room, *others):
        tested = room if name == job.room else study.room(name, job.seed, job.shots, job.run).with_channels(channels)
        predicted = _predict(study, job, tested, backbone, None if unchanged else adapter, spec.method)
        about = {"run": spec.name, "label": spec.label, "trained_on": job.room, **facts}
        tests.append(_report(study, job, tested, backbone, predicted, about))
    return Outcome(tests, adapter)


def _run_baselines(study: Study, job: Job, room: Room, backbone: XRIR) -> Outcome:
    predictions = baselines(room, min(study.k, job.shots), study.split, job.seed)
    predictions["backbone"] = _predict(study, job, room, backbone, None, NO_LEVELS)
    about = {**NOTHING, "settings": study.settings()}
    return Outcome(
        [_report(study, job, room, backbone, rirs, {"run": name, **about}) for name, rirs in predictions.items()]
    )


def _make_adapter(
    study: Study, spec: RunSpec, job: Job, room: Room, needed: list[Stored], backbone: XRIR
) -> tuple[dict[str, Any], Stored]:
    """Train a run's adapter, or take or blend others'; and what is to be said of it."""
    settings = _settings(study, spec, job, room) | {"method": spec.method.describe()}
    if spec.use is not None:
        adapter = blend_adapters(backbone, needed, list(spec.blend.values())) if spec.blend else needed[0]
        settings["use"] = {**dataclasses.asdict(spec.use), "blend": spec.blend}
        return {**_facts(spec, settings), **_size(adapter)}, adapter
    if len(room.splits["train"]) == 1:  # nothing can be predicted from others: what it would have started from
        adapter = needed[0] if needed else nothing_learned(backbone)
        return {**_facts(spec, settings), "best_step": 0, "steps": 0, **_size(adapter)}, adapter
    device = str(backbone.device)
    first = _first_stage(study, spec.name, job.seed, job.shots, device) if spec.first_stage else None
    adapted = adapt_room(
        room,
        dataclasses.replace(spec.method, levels="none"),  # fitted where it is tested
        dataclasses.replace(training_of(study, job), k=study.k),
        backbone=backbone,
        accelerator=_accelerator(device),
        start=_start(spec, job.room, needed, first),
        on_top_of=None if spec.on_top_of is None else Start(str(spec.on_top_of), *needed[-1]),
        test_split=None,
        allow_faults=bool(spec.assumed()),  # which are faults on purpose
    )
    found = adapted.adaptation
    settings |= {
        "training": found.training.describe(),
        "frozen": found.frozen,
        "start": spec.start and dataclasses.asdict(spec.start),
        "on_top_of": spec.on_top_of and dataclasses.asdict(spec.on_top_of),
        "first_stage": list(spec.first_stage),
    }
    seconds = round(found.seconds + (0.0 if first is None else first.seconds), 1)
    return {**_facts(spec, settings), **_outcome(found), "seconds": seconds}, adapted.adapter


@lru_cache(maxsize=4)
def _first_stage(study: Study, run: str, seed: int, shots: int, device: str) -> Adaptation:
    """Adapted to all rooms of a run's first stage together, which is the same for every room that goes on from it."""
    spec = study.runs[run]
    # with the seed's own splits, lest test positions train
    rooms = [checked(study.room(name, seed, shots, run), bool(spec.assumed())) for name in spec.first_stage]
    method, training = dataclasses.replace(spec.method, levels="none"), training_of(study, Job(run, "", shots, seed))
    with tempfile.TemporaryDirectory() as folder:
        backbone = load_backbone(study.backbone).to(device)
        return adapt(backbone, rooms, method, training, _accelerator(device), Path(folder))


def _start(spec: RunSpec, room: str, needed: list[Stored], first: Adaptation | None) -> Start | None:
    """What a run's training goes on from, if from anything."""
    if first is not None:
        trained_on = room if room in spec.first_stage else ""
        return Start(f"first stage: {', '.join(spec.first_stage)}", first.config, first.tensors, trained_on=trained_on)
    return None if spec.start is None else Start(str(spec.start), *needed[0])


def _accelerator(device: str) -> Accelerator:
    return Accelerator(cpu=device == "cpu", mixed_precision="no")


def _settings(study: Study, spec: RunSpec, job: Job, room: Room) -> dict[str, Any]:
    """What is said of a run whether it trains or not."""
    settings = study.settings() | spec.assumed()
    if spec.borrow:
        settings["borrowed"] = {"from": spec.lender(*job.room.split("/")), "measurements": room.borrowed}
    return settings


def nothing_learned(backbone: XRIR) -> Stored:
    """An adapter that changes nothing."""
    adapter = attach(backbone, MethodSettings("bias"), 0)
    found = adapter.config(), adapter.tensors()
    adapter.detach()
    return found


def _facts(spec: RunSpec, settings: dict[str, Any]) -> dict[str, Any]:
    group = "full" if spec.method.method == "full" else "adapter"
    return {"group": group, "settings": settings, "seconds": None, "best_step": None,
            "steps": None, "validation": []}  # fmt: skip


def _outcome(found: Adaptation) -> dict[str, Any]:
    return {
        "trainable_parameters": found.trainable_parameters,
        "bytes": found.adapter_bytes,
        "best_step": found.best_step,
        "steps": found.steps,
        "validation": [(step, round(loss, 6)) for step, loss in found.validation],
    }


def _size(adapter: Stored) -> dict[str, int]:
    tensors = adapter[1].values()
    return {
        "trainable_parameters": sum(tensor.numel() for tensor in tensors),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


def _predict(
    study: Study, job: Job, room: Room, backbone: XRIR, adapter: Stored | None, method: MethodSettings
) -> np.ndarray:
    """RIRs at the tested positions of a room that a job takes to be so; by the backbone alone without an adapter."""
    if adapter is None and not room.borrowed:
        device, assumption = str(backbone.device), study.assumption(room.name, job.run)
        return _predict_bare(study, room.name, job.seed, job.shots, device, assumption, method.levels)
    levels = _levels(study, room, backbone, method.levels)
    attached = None if adapter is None else attach_stored(backbone, *adapter)
    try:
        return _predict_attached(study, room, backbone, job.seed, levels)
    finally:
        if attached is not None:
            attached.detach()


@lru_cache(maxsize=16)
def _predict_bare(
    study: Study, name: str, seed: int, shots: int, device: str, assumption: Assumption, levels: str
) -> np.ndarray:
    """By the backbone alone, where most runs that gain nothing end."""
    room = assumed_room(study, name, seed, shots, assumption)
    backbone = load_backbone(study.backbone).to(device)
    return _predict_attached(study, room, backbone, seed, _levels(study, room, backbone, levels))


def _levels(study: Study, room: Room, backbone: XRIR, levels: str) -> RoomLevels | None:
    """Fitted to what a room was measured to be, with a backbone that has not seen it."""
    return fit_levels(backbone, room, _k(study, room)) if levels == "fitted" else None


def _predict_attached(study: Study, room: Room, backbone: XRIR, seed: int, levels: RoomLevels | None) -> np.ndarray:
    tensors, targets = RoomTensors.of_room(room, backbone.device), room.positions[room.splits[study.split]]
    return predict_rirs(backbone, tensors, targets - room.receiver, _k(study, room), seed, levels=levels)


def _k(study: Study, room: Room) -> int:
    """References of a prediction."""
    return min(study.k, len(room.splits["train"]))


def _report(
    study: Study, job: Job, room: Room, backbone: XRIR, predicted: np.ndarray, about: dict[str, Any]
) -> dict[str, Any]:
    """The JSON of one test; see :class:`haa_peft.studies.results.RunResult`."""
    indices = room.splits[study.split]
    rirs = room.rirs[indices]
    true, found = Metrics.of(rirs, iso=False), Metrics.of(predicted, iso=False)
    wrong = {name: values for name, values in errors(found, true).items() if name != "iso"}
    c50 = [iso_metrics(each, SAMPLE_RATE, bands=())["broadband"]["c50_db"] for each in (predicted, rirs)]
    wrong["iso_c50_db"] = np.abs(c50[0] - c50[1])
    truth = paper_metrics(rirs, SAMPLE_RATE)
    distance = np.linalg.norm(room.positions[indices] - room.receiver, axis=1).argsort(kind="stable")
    kept = np.unique(distance[np.linspace(0, len(distance) - 1, CURVES).round().astype(int)])
    time = np.arange(0, rirs.shape[1], round(CURVE_STEP * SAMPLE_RATE))
    return {
        "study": study.name,
        "job": job_settings(study, job),
        **about,
        "room": room.room,
        "configuration": room.configuration,
        "reconstruction": "reconstruction" in f"{study.rooms[room.name]} {room.source}".lower(),
        "seed": job.seed,
        "shots": job.shots,
        "k": _k(study, room),
        "split": study.split,
        "room_fingerprint": fingerprint_of_room(study, room.name, job.seed, job.shots),
        "backbone": {"origin": backbone.origin, "fingerprint": fingerprint(backbone)},
        "versions": _versions(),
        "commit": _commit(),
        "splits": {name: split.tolist() for name, split in room.without_borrowed().splits.items()},
        "positions": indices.tolist(),
        "positions_xyz": room.positions[indices].round(3).tolist(),
        "receiver_xyz": room.receiver.round(3).tolist(),
        "references_xyz": room.positions[room.splits["train"]].round(3).tolist(),
        "floor_plan": floor_plan(study.room(room.name, job.seed, job.shots)),
        "errors": {name: _short(values) for name, values in wrong.items()},
        "truth": {
            name: _short(truth[key]) for name, key in (("edt_s", "edt_s"), ("c50_db", "c50_db"), ("t60_s", "t60_20_s"))
        },
        "decay_curves": {
            "position": kept.tolist(),
            "time_s": _short(time / SAMPLE_RATE),
            "true_db": [_short(curve) for curve in _decay_db(rirs[kept])[:, time]],
            "predicted_db": [_short(curve) for curve in _decay_db(predicted[kept])[:, time]],
        },
    }


def _decay_db(rirs: np.ndarray) -> np.ndarray:
    """Schroeder curves (N, T) in dB, down to -60."""
    left = np.cumsum(rirs[:, ::-1].astype(np.float64) ** 2, axis=1)[:, ::-1]
    return 10 * np.log10(np.maximum(left / left[:, :1], 1e-6))


def floor_plan(room: Room) -> list:
    """Walls, and what stands in the room, as segments (x, y) in m seen from above.

    Of a depth map it is the outline at the receiver's height.
    """
    found = []
    if room.surfaces is None:
        level = room.panorama[:2, room.panorama.shape[1] // 2, ::OUTLINE_STEP].T + room.receiver[:2]
        for start, end in zip(level, np.roll(level, -1, axis=0), strict=True):
            found.append([start.round(3).tolist(), end.round(3).tolist()])
        return found
    for corner, first, second in room.surfaces.points:
        normal = np.cross(first - corner, second - corner)
        if abs(normal[2]) > 0.5 * np.linalg.norm(normal):
            continue  # floor, ceiling
        points = np.array([corner, first, second, first + second - corner])[:, :2]
        gaps = np.linalg.norm(points[:, None] - points, axis=-1)
        i, j = np.unravel_index(gaps.argmax(), gaps.shape)
        found.append([points[i].round(3).tolist(), points[j].round(3).tolist()])
    return found


def _short(values: np.ndarray) -> list[float]:
    """Five digits."""
    return [float(f"{value:.5g}") for value in values]


def _versions() -> dict[str, str]:
    packages = ("haa-peft", "torch", "peft", "accelerate", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


@lru_cache(maxsize=1)
def _commit() -> str:
    """Of the repository that this package lies in, if it does; with a + behind it where files were changed."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
