"""What the results of a run depend on, by which a study that goes on knows whether they are there."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from haa_peft.model.checkpoint import fingerprint, load_backbone
from haa_peft.studies.plan import Job, Study, channels_of, sources_of
from haa_peft.training.settings import TrainingSettings


def job_settings(study: Study, job: Job) -> dict[str, Any]:
    """All that a job's results depend on, as JSON, defaults and other runs' adapters included.

    A resumed study compares it with what is there.
    """
    room = fingerprint_of_room(study, job.room, job.seed, job.shots)
    found = {**study.settings(), "room": room, "backbone": _about_backbone(study.backbone)[0], "seed": job.seed}
    if job.run:
        spec = study.runs[job.run]
        lender = spec.lender(*job.room.split("/"))
        if lender:
            found["borrow"] = fingerprint_of_room(study, lender, job.seed, max(study.shots))
        sources = [job_settings(study, source) for source in sources_of(study, job)]
        first = [job_settings(study, Job("", name, job.shots, job.seed)) for name in spec.first_stage]
        if not spec.adapt:
            levels = {} if spec.method.levels == "none" else {"levels": spec.method.levels}
            return json.loads(json.dumps(found | _assumed(study, job) | {"adapt": False, **levels}))
        found |= _assumed(study, job)
        found |= {
            "method": spec.method.describe(),
            "training": training_of(study, job).describe(),
            "used": {"start": spec.start is not None, "on_top_of": spec.on_top_of is not None, "blend": spec.blend},
            "sources": sources,
            "first_stage": first,
        }
        channels = channels_of(study, job)
        if channels:
            read = study.room(job.room, job.seed, job.shots, job.run).with_channels(channels)
            found["channels"] = {"read": channels, "room": read.fingerprint}
    return json.loads(json.dumps(found))


def _assumed(study: Study, job: Job) -> dict[str, Any]:
    """What its run takes its rooms to be, where that is not what they are."""
    spec = study.runs[job.run]
    found = spec.assumed()
    if spec.geometry is not None:
        room, _, configuration = job.room.partition("/")
        names = {job.room, *spec.first_stage, spec.lender(room, configuration)} - {""}
        names |= {name for name in study.rooms if spec.transfer and name.startswith(f"{room}/")}
        found["geometry"] = {
            name: spec.assumptions[name].made_by() or fingerprint_of_room(study, name, job.seed, job.shots, job.run)
            for name in sorted(names)
        }
    return found


def training_of(study: Study, job: Job) -> TrainingSettings:
    """Training settings of a job's run, with the defaults of its method."""
    spec = study.runs[job.run]
    training = TrainingSettings(k=max(1, min(study.k, job.shots - 1)), seed=job.seed, **spec.training)
    return training.of_method(spec.method.method, _about_backbone(study.backbone)[1])


@lru_cache(maxsize=4096)
def fingerprint_of_room(study: Study, name: str, seed: int, shots: int, run: str = "") -> str:
    """Of a room with the splits of a seed and its number of measurements, as a run takes it to be.

    Parameters
    ----------
    study : that has the room.
    name, seed, shots : of the room, of its splits, and its measurements.
    run : that takes it to be something; without one it is what it is.
    """
    return study.room(name, seed, shots, run).fingerprint


@lru_cache(maxsize=8)
def _about_backbone(backbone: str) -> tuple[str, str]:
    """Its fingerprint and its weighting."""
    loaded = load_backbone(backbone)
    return fingerprint(loaded), loaded.config.weighting
