"""Running a study: what is left to do, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from haa_peft.adapters.combine import Stored
from haa_peft.errors import InputError
from haa_peft.fields import new_names
from haa_peft.files import check_writable, nan_to_null, write_atomically
from haa_peft.studies.keys import fingerprint_of_room, job_settings
from haa_peft.studies.plan import Job, Study, sources_of, waves
from haa_peft.studies.results import BASELINES, unpack
from haa_peft.studies.run import run_job

EXECUTORS = ("local", "ray")
Task = tuple[Job, Mapping[Job, bytes]]
"""A job, and the files of the adapters that it needs: a tensor sent to a process would keep a file open each."""
Outcomes = Iterator[tuple[Job, "Finished | InputError"]]
ATTEMPTS = 3
LOG = logging.getLogger(__name__)


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
    executor : one of ``EXECUTORS``.
    workers : runs at once; one for each GPU, or each core, unless given.

    Raises
    ------
    InputError
        When a run fails, ``out`` holds results of other settings, or Ray is asked for and not there.
    """
    from tqdm import tqdm

    if executor not in EXECUTORS:
        raise InputError(f"--executor is {executor!r} but must be one of {', '.join(EXECUTORS)}")
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
    run = run_here if executor == "local" else run_on_ray
    total = sum(len(group) for group in groups)
    failed: dict[Job, str] = {}
    with tqdm(total=total, initial=len(done), desc=study.name, unit="run") as bar, _quiet():
        for group in groups:
            ready = [job for job in group if job not in done and not failed.keys() & set(sources_of(study, job))]
            failed |= {job: "needs a run that failed" for job in group if job not in done and job not in ready}
            tasks = [(job, _adapters(out, sources_of(study, job))) for job in ready]
            for job, outcome in run(study, tasks, workers):
                if isinstance(outcome, InputError):
                    failed[job] = str(outcome)
                    continue
                _keep(study, job, outcome, out, job in needed)
                bar.set_postfix_str(str(job))
                bar.update()
    if failed:
        job, reason = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {total} runs failed; the first, {job}: {reason}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block single runs say nothing of themselves, since a bar says where the study is."""
    log = logging.getLogger("haa_peft.main_job")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


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


def run_here(study: Study, tasks: Sequence[Task], workers: int | None) -> Outcomes:
    """In ``workers`` processes, one to a GPU or to a core; in this one if that is one.

    Raises
    ------
    InputError
        When workers die again and again.
    """
    gpus = torch.cuda.device_count()
    workers = min(workers or gpus or os.cpu_count() or 1, max(1, len(tasks)))
    if workers == 1:
        device = "cuda" if gpus else None
        yield from ((job, _try(study, job, adapters, device)) for job, adapters in tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    left = dict(tasks)
    for attempt in range(ATTEMPTS):
        try:
            yield from _in_pool(study, left, workers, gpus, threads)
            return
        except BrokenProcessPool as error:
            LOG.warning(f"\na worker died (attempt {attempt + 1} of {ATTEMPTS}{error}); {len(left)} runs are left")
    raise InputError(f"workers died {ATTEMPTS} times; --workers 1 runs the study in one process and shows why")


def _in_pool(study: Study, left: dict[Job, Mapping[Job, bytes]], workers: int, gpus: int, threads: int) -> Outcomes:
    """Run what is left in a pool of processes; what is done leaves ``left``."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (context.Value("i", 0), gpus, threads, study)) as pool:
        futures = {pool.submit(_work, job, adapters): job for job, adapters in left.items()}
        children = multiprocessing.active_children()
        try:
            for future in as_completed(futures):
                outcome = future.result()
                job = futures.pop(future)
                del left[job]
                yield job, outcome
        except BrokenProcessPool:
            pool.shutdown(cancel_futures=True)  # its own thread asks for exit codes too, and one of two gets none
            stopped = -signal.SIGTERM  # the others
            codes = {child.exitcode for child in children if child.exitcode} - {stopped}
            raise BrokenProcessPool("".join(f", exit code {code}" for code in sorted(codes))) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _try(study: Study, job: Job, adapters: Mapping[Job, bytes], device: str | None) -> Finished | InputError:
    """A run that cannot be done does not end the others."""
    try:
        needed = {source: _from_file(content) for source, content in adapters.items()}
        tests, adapter = run_job(study, job, needed, device)
        return Finished(tests, None if adapter is None else _to_file(adapter))
    except InputError as error:
        return error


_WORKER: dict[str, Any] = {}
"""Of a worker: its device, and the study, of which it has one, so that what is cached by study serves all its jobs."""


def _begin(counter: Any, gpus: int, threads: int, study: Study) -> None:
    """Settle a worker: its share of the cores, its GPU, no bars of its own."""
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    faulthandler.enable()
    if gpus:
        torch.cuda.set_device(number % gpus)  # which accelerate then takes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    os.environ["TQDM_DISABLE"] = "1"
    _WORKER.update(study=study, device=f"cuda:{number % gpus}" if gpus else None)


def _end_with_parent() -> None:
    """A study that is killed leaves no workers behind, which would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job, adapters: Mapping[Job, bytes]) -> Finished | InputError:
    return _try(_WORKER["study"], job, adapters, _WORKER["device"])


def run_on_ray(study: Study, tasks: Sequence[Task], workers: int | None) -> Outcomes:
    """On the Ray cluster that is running ($RAY_ADDRESS, or this machine's), one core or GPU to a run.

    Its machines must have this package, and the rooms under the same paths; results come back to this one.

    Raises
    ------
    InputError
        When Ray is not installed or no cluster runs.
    """
    if find_spec("ray") is None:
        raise InputError('--executor ray needs the package ray; pip install "haa-peft[ray]"')
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except ConnectionError:
            raise InputError(
                "--executor ray finds no cluster; start one with `ray start --head`, or name one in RAY_ADDRESS"
            ) from None
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    needs: dict[str, Any] = {"num_gpus": 1} if has_gpus else {"num_cpus": 1}
    shared = ray.put(dataclasses.replace(study, rooms={n: str(Path(p).resolve()) if Path(p).exists() else p
                                                       for n, p in study.rooms.items()}))  # fmt: skip
    remote: Any = ray.remote(**needs)(_ray_work)
    left = {remote.remote(shared, job, adapters, has_gpus): job for job, adapters in tasks[: workers or len(tasks)]}
    waiting = list(tasks[len(left) :])
    while left:
        (ready,), _ = ray.wait(list(left), num_returns=1)
        job = left.pop(ready)
        if waiting:
            following, adapters = waiting.pop(0)
            left[remote.remote(shared, following, adapters, has_gpus)] = following
        yield job, ray.get(ready)


def _ray_work(study: Study, job: Job, adapters: Mapping[Job, bytes], gpu: bool) -> Finished | InputError:
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    return _try(study, job, adapters, "cuda" if gpu else None)
