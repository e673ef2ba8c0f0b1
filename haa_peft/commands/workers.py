"""The same work on many things: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from typing import Any

from haa_peft.errors import InputError

EXECUTORS = ("local", "ray")
Work = Callable[[Any, Any, "str | None"], Any]
"""Of what all tasks share, one task, and the device to use (None where there is no GPU), makes the task's outcome."""
Outcomes = Iterator[tuple[int, Any]]
LOG = logging.getLogger(__name__)


def check_workers(executor: str, workers: int | None) -> None:
    """Raise ``InputError`` unless the arguments of :func:`work_on` are such as it takes."""
    if executor not in EXECUTORS:
        raise InputError(f"--executor is {executor!r} but must be one of {', '.join(EXECUTORS)}")
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers} but must be at least 1")


def work_on(
    work: Work, shared: Any, tasks: Sequence[Any], *, executor: str = "local", workers: int | None = None,
    on_gpus: bool = True,
) -> Outcomes:  # fmt: skip
    """Yield the number and the outcome of every task, in the order in which they end.

    A task whose process dies is tried once more, alone; if it dies again its outcome is an ``InputError``, and the
    others go on. What ``work`` raises ends everything.

    Parameters
    ----------
    work : a function of a module, which processes import.
    shared : what all tasks need, such as settings; sent to each process once.
    tasks : what is worked on.
    executor : ``local``, or ``ray``, the Ray cluster that is running ($RAY_ADDRESS, or this machine's); its machines
        must have this package, and files under the same paths.
    workers : tasks at once; one for each GPU, or each core, unless given. One on this machine is this process itself.
    on_gpus : whether the work uses GPUs where there are any.

    Raises
    ------
    InputError
        For arguments that make no sense, and when Ray is not installed or no cluster runs.
    """
    check_workers(executor, workers)
    return (_here if executor == "local" else _on_ray)(work, shared, tasks, workers, on_gpus)


def _here(work: Work, shared: Any, tasks: Sequence[Any], workers: int | None, on_gpus: bool) -> Outcomes:
    import torch

    gpus = torch.cuda.device_count() if on_gpus else 0
    workers = min(workers or gpus or os.cpu_count() or 1, max(1, len(tasks)))
    if workers == 1:
        device = "cuda" if gpus else None
        yield from ((number, work(shared, task, device)) for number, task in enumerate(tasks))
        return
    left = deque(range(len(tasks)))
    while left:
        running: set[int] = set()
        try:
            yield from _in_pool(work, shared, tasks, left, running, workers, gpus)
        except BrokenProcessPool as error:
            again = f"{len(running)} that ran are tried again one by one"
            LOG.warning(f"a worker died{error}; {again}, {len(left)} are left")
            for number in sorted(running):
                try:
                    yield from _in_pool(work, shared, tasks, deque([number]), set(), 1, gpus)
                except BrokenProcessPool as error:
                    yield number, InputError(f"its process died twice{error}, perhaps for want of memory")


def _in_pool(
    work: Work, shared: Any, tasks: Sequence[Any], left: deque[int], running: set[int], workers: int, gpus: int
) -> Outcomes:
    """Work on the numbers that are ``left`` in a pool of processes; those in ``running`` have begun and not ended."""
    context = multiprocessing.get_context("spawn")
    settled = (context.Value("i", 0), gpus, max(1, (os.cpu_count() or 1) // workers), work, shared)
    with ProcessPoolExecutor(workers, context, _begin, settled) as pool:
        futures: dict[Future, int] = {}
        children: list[Any] = []
        try:
            while left or futures:
                while left and len(futures) < workers:
                    number = left.popleft()
                    running.add(number)
                    futures[pool.submit(_work, tasks[number])] = number
                children = children or multiprocessing.active_children()
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    number = futures.pop(future)
                    running.discard(number)
                    yield number, outcome
        except BrokenProcessPool:
            pool.shutdown(cancel_futures=True)  # its own thread asks for exit codes too, and one of two gets none
            stopped = -signal.SIGTERM  # the others
            codes = {child.exitcode for child in children if child.exitcode} - {stopped}
            raise BrokenProcessPool("".join(f", exit code {code}" for code in sorted(codes))) from None
        except BaseException:  # an interruption, or a task that ends everything: nobody waits for the others
            for child in children:
                child.terminate()
            raise


_WORKER: dict[str, Any] = {}
"""Of a worker: its device, what it does, and what is shared, so that what is cached of that serves all its tasks."""


def _begin(counter: Any, gpus: int, threads: int, work: Work, shared: Any) -> None:
    """Settle a worker: its share of the cores, its GPU, no bars of its own; interruptions go to its parent."""
    import torch

    with counter.get_lock():
        number = counter.value
        counter.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    if gpus:
        torch.cuda.set_device(number % gpus)  # which accelerate then takes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    os.environ["TQDM_DISABLE"] = "1"
    _WORKER.update(work=work, shared=shared, device=f"cuda:{number % gpus}" if gpus else None)


def _end_with_parent() -> None:
    """A command that is killed leaves no workers behind, which would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Any) -> Any:
    return _WORKER["work"](_WORKER["shared"], task, _WORKER["device"])


def connect_to_ray(asked_by: str) -> Any:
    """The module ``ray``, connected to the cluster that is running; ``asked_by`` is the flag, for people.

    Raises ``InputError`` when it is not installed or no cluster runs.
    """
    if find_spec("ray") is None:
        raise InputError(f'{asked_by} needs the package ray; pip install "haa-peft[ray]"')
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except ConnectionError:
            raise InputError(
                f"{asked_by} finds no cluster; start one with `ray start --head`, or name one in RAY_ADDRESS"
            ) from None
    return ray


def _on_ray(work: Work, shared: Any, tasks: Sequence[Any], workers: int | None, on_gpus: bool) -> Outcomes:
    ray = connect_to_ray("--executor ray")
    has_gpus = on_gpus and ray.cluster_resources().get("GPU", 0) > 0
    needs: dict[str, Any] = {"num_gpus": 1} if has_gpus else {"num_cpus": 1}
    remote, kept = ray.remote(**needs)(_ray_work), ray.put(shared)
    waiting = deque(enumerate(tasks))
    left: dict[Any, int] = {}
    while waiting or left:
        while waiting and len(left) < (workers or len(tasks)):
            number, task = waiting.popleft()
            left[remote.remote(work, kept, task, has_gpus)] = number
        (ready,), _ = ray.wait(list(left), num_returns=1)
        number = left.pop(ready)
        try:
            yield number, ray.get(ready)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:  # Ray has tried it again by itself
            yield number, InputError(f"its process died again and again ({type(error).__name__})")


def _ray_work(work: Work, shared: Any, task: Any, gpu: bool) -> Any:
    import torch

    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    return work(shared, task, "cuda" if gpu else None)
