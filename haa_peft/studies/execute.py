"""Running a study: what is left to do, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from haa_peft.adapters.combine import Stored
from haa_peft.commands.ending import quiet
from haa_peft.commands.outputs import check_writable
from haa_peft.commands.workers import check_workers, work_on
from haa_peft.errors import InputError
from haa_peft.fields import new_names
from haa_peft.files import nan_to_null, write_atomically
from haa_peft.studies.keys import fingerprint_of_room, job_settings
from haa_peft.studies.plan import Job, Study, sources_of, waves
from haa_peft.studies.results import BASELINES, unpack
from haa_peft.studies.run import run_job

Task = tuple[Job, Mapping[Job, bytes]]
"""A job, and the files of the adapters that it needs: a tensor sent to a process would keep a file open each."""


class Finished(NamedTuple):
    """What comes back of a job: JSON of every test, and the file of its adapter, if it made one."""

    tests: list[dict[str, Any]]
    adapter: bytes | None


def run_study(study: Study, out: Path, *, executor: str = "local", workers: int | None = None) -> None:
    """Run what is missing in ``out``: ``runs/*.json``, and adapters that other runs need in ``adapters/``.

    Packed runs (:func:`~haa_peft.studies.results.unpack`) are unpacked and count as there.

    Parameters
    ----------
    study : what to run.
    out : folder of the results.
    executor, workers : this machine or a Ray cluster, and runs at once, as
        :func:`~haa_peft.commands.workers.work_on` takes them; results come back to this machine.

    Raises
    ------
    InputError
        When a run fails, ``out`` holds results of other settings, or Ray is asked for and not there.
    """
    from tqdm import tqdm

    check_workers(executor, workers)
    check_writable(out / "runs" / "x")
    unpack(out)
    groups = waves(study)
    done = {job for group in groups for job in group if is_done(study, job, out)}
    needed: set[Job] = set()
    for job in [job for group in reversed(groups) for job in group]:  # those that need others first
        if job in needed and not _adapter_path(out, job).exists():
            done -= {job}
        if job not in done:
            needed |= set(sources_of(study, job))
    shared = study if executor == "local" else dataclasses.replace(study, rooms=_absolute(study.rooms))
    total = sum(len(group) for group in groups)
    failed: dict[Job, str] = {}
    with tqdm(total=total, initial=len(done), desc=study.name, unit="run") as bar, quiet("haa_peft.main_job"):
        for group in groups:
            ready = [job for job in group if job not in done and not failed.keys() & set(sources_of(study, job))]
            failed |= {job: "needs a run that failed" for job in group if job not in done and job not in ready}
            tasks = [(job, _adapters(out, sources_of(study, job))) for job in ready]
            for number, outcome in work_on(_try, shared, tasks, executor=executor, workers=workers):
                job = tasks[number][0]
                if isinstance(outcome, InputError):
                    failed[job] = str(outcome)
                    continue
                _keep(study, job, outcome, out, job in needed)
                bar.set_postfix_str(str(job))
                bar.update()
    if failed:
        job, reason = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {total} runs failed; the first, {job}: {reason}")


def _absolute(rooms: Mapping[str, str]) -> dict[str, str]:
    """Rooms by paths that mean the same to every process of a cluster."""
    return {name: str(Path(path).resolve()) if Path(path).exists() else path for name, path in rooms.items()}


def result_paths(study: Study, job: Job, out: Path) -> list[Path]:
    """Files of a job's results."""
    folder, name = (out / "runs" / job.stem()).parent, f"shots{job.shots}-seed{job.seed}.json"
    if not job.run:
        return [folder / f"{baseline}-{name}" for baseline in BASELINES]
    paths = [folder / f"{job.run}-{name}"]
    if study.runs[job.run].transfer:
        room, _, configuration = job.room.partition("/")
        others = [other for other in study.rooms if other != job.room and other.startswith(f"{room}/")]
        paths += [out / "runs" / other.replace("/", "-") / f"{job.run}-of-{configuration}-{name}" for other in others]
    return paths


def is_done(study: Study, job: Job, out: Path) -> bool:
    """Whether a job's results are there; raises ``InputError`` if they are of other settings."""
    paths = result_paths(study, job, out)
    if not all(path.exists() for path in paths):
        return False
    expected = job_settings(study, job)
    for path in paths:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            settings = new_names(dict(kept["job"]))
            tested = f"{kept['room']}/{kept['configuration']}"
            if kept["room_fingerprint"] != fingerprint_of_room(study, tested, job.seed, job.shots):
                settings["room"] = kept["room_fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is no result of a run; remove it, and it is run again") from None
        if settings != expected:
            key = min(key for key in {**expected, **settings} if settings.get(key) != expected.get(key))
            raise InputError(f"{path} is of another {key}; give another --out, or remove it to run it again")
    return True


def _adapter_path(out: Path, job: Job) -> Path:
    return out / "adapters" / f"{job.stem()}.safetensors"


def _keep(study: Study, job: Job, finished: Finished, out: Path, adapter_needed: bool) -> None:
    if adapter_needed and finished.adapter is not None:
        write_atomically(_adapter_path(out, job), finished.adapter)
    for path, test in zip(result_paths(study, job, out), finished.tests, strict=True):
        text = json.dumps(nan_to_null(test), allow_nan=False, separators=(",", ":")) + "\n"
        write_atomically(path, text.encode())


def _adapters(out: Path, sources: Sequence[Job]) -> dict[Job, bytes]:
    return {source: _adapter_path(out, source).read_bytes() for source in sources}


def _to_file(adapter: Stored) -> bytes:
    config, tensors = adapter
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, metadata={"adapter_config": json.dumps(config)})


def _from_file(content: bytes) -> Stored:
    size = int.from_bytes(content[:8], "little")  # of the header, which is JSON
    try:
        config = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["adapter_config"])
        return config, safetensors.torch.load(content)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError):
        raise InputError("an adapter of another run cannot be read; remove adapters/ beside runs/") from None


def _try(study: Study, task: Task, device: str | None) -> Finished | InputError:
    """A run that cannot be done does not end the others."""
    job, adapters = task
    try:
        needed = {source: _from_file(content) for source, content in adapters.items()}
        tests, adapter = run_job(study, job, needed, device)
        return Finished(tests, None if adapter is None else _to_file(adapter))
    except InputError as error:
        return error
