"""The application: a door that reads requests, and replicas that hold rooms."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haa_peft import __version__
from haa_peft.checks import check_whole
from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.serving.messages import JSON, LARGEST_BODY, Answer, Asked, Refused, read_json
from haa_peft.store.names import AdapterName, check_store, on_hub
from haa_peft.store.parts import CARD

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

NAME = "haa-peft"
"""Of the application in Ray Serve."""
ATTEMPTS = 8
PAUSE = 0.1
"""Seconds before a request whose replica died is sent to another one; twice as long each time."""
WAITING = 1000
"""Requests that the door holds at once."""
OBJECTS = 200 * 2**20
"""Bytes of Ray's shared memory where Ray is started for this alone."""


@dataclass(frozen=True)
class Serving:
    """What is served, and where.

    Attributes
    ----------
    store : folder of adapters, which all machines see.
    backbone : that they were made for: a bundled name or a checkpoint file.
    host, port : that the door listens at.
    replicas : processes that hold rooms, on a core or a GPU each; one for each unless given.
    max_loaded : rooms that a replica keeps in memory.
    pinned : adapters that every replica loads as it starts, and keeps.
    cluster : use the Ray cluster that is running ($RAY_ADDRESS, or this machine's) instead of this machine alone.
    """

    store: Path
    backbone: str = "small"
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int | None = None
    max_loaded: int = 32
    pinned: tuple[str, ...] = ()
    cluster: bool = False

    def __post_init__(self) -> None:
        if on_hub(str(self.store)) or str(self.store).startswith("hf:/"):
            raise InputError(f"{self.store} is on the Hub; `haa-peft pull` it into a folder, and serve that")
        check_store(self.store)
        check_whole("--port", self.port, 1, 2**16 - 1)
        check_whole("--max-loaded", self.max_loaded, 1)
        if self.replicas is not None:
            check_whole("--replicas", self.replicas, 1)
        for name in self.pinned:
            if not (AdapterName.parse(name).folder(self.store) / CARD).is_file():
                raise InputError(f"no adapter {name} in store {self.store}; `haa-peft adapters list` shows all")
        if len(self.pinned) > self.max_loaded:
            raise InputError(f"{len(self.pinned)} rooms are pinned but --max-loaded is {self.max_loaded}; raise it")


def start(serving: Serving) -> str:
    """Start the application; where it listens.

    Raises
    ------
    InputError
        When Ray Serve is not installed, no cluster runs where one is asked for, or it cannot listen there.
    """
    ray, serve = (package(name, "serving", "serve") for name in ("ray", "ray.serve"))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _connect(ray, serving)
    where = {"host": serving.host, "port": serving.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=where, logging_config={"log_level": "WARNING"})
        serve.run(make_application(serving), name=NAME, route_prefix="/")
    except Exception as error:
        raise InputError(f"cannot serve at {serving.host}:{serving.port} ({_reason(error):.160})") from error
    return f"http://{serving.host}:{serving.port}"


def stop(serving: Serving) -> None:
    """End the application, and Ray where it was started for it."""
    import ray
    from ray import serve

    if serving.cluster:
        serve.delete(NAME)
        return
    serve.shutdown()
    ray.shutdown()


def _connect(ray: Any, serving: Serving) -> None:
    if ray.is_initialized():
        return
    if serving.cluster:
        from haa_peft.commands.workers import connect_to_ray

        connect_to_ray("--cluster")
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray would tell its makers
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, object_store_memory=OBJECTS,
        _node_ip_address="127.0.0.1", configure_logging=False,
        num_cpus=max(serving.replicas or 1, os.cpu_count() or 1),
    )  # fmt: skip


def _reason(error: Exception) -> str:
    """The last line of what Ray raises, which says what went wrong."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def make_application(serving: Serving) -> Any:
    """The application as Ray Serve runs it."""
    import ray
    from ray import serve

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    replicas = serving.replicas or gpus or max(1, int(resources.get("CPU", 1)))
    deployed = serve.deployment(
        name="rooms", num_replicas=replicas, ray_actor_options=needs, max_ongoing_requests=16,
        health_check_period_s=2, health_check_timeout_s=30,
    )(_rooms(serving))  # fmt: skip
    door = serve.deployment(
        name="door", num_replicas=1, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=WAITING
    )(Door)  # fmt: skip
    return door.bind(deployed.bind())


def _rooms(serving: Serving) -> type:
    """The class of the replicas that hold rooms; how many is part of it."""
    from ray import serve

    class Rooms(Replica):
        def __init__(self) -> None:
            super().__init__(serving)

        @serve.multiplexed(max_num_models_per_replica=serving.max_loaded)
        async def loaded(self, name: str) -> str:
            """Has a room in memory; Ray Serve then sends its requests here."""
            return await self.load(name)

    return Rooms


class Replica:
    """A process that holds rooms and answers one request after the other."""

    def __init__(self, serving: Serving) -> None:
        import torch

        from haa_peft.inference.predictor import RoomPredictor
        from haa_peft.model.checkpoint import load_backbone

        torch.set_num_threads(1)  # a core each, as Ray counts them
        self._store = serving.store
        self._predictor = RoomPredictor(
            load_backbone(serving.backbone), serving.store, max_loaded=serving.max_loaded,
            device="cuda" if torch.cuda.is_available() else None,
        )  # fmt: skip
        self._predictor.prefetch(serving.pinned, pinned=True)
        self._computing, self._loading = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    async def loaded(self, name: str) -> str:
        """See the subclass; without Ray Serve nothing is told of it."""
        return await self.load(name)

    async def load(self, name: str) -> str:
        """Have a room in memory, while others are computed in."""
        await asyncio.get_running_loop().run_in_executor(self._loading, self._predictor.prefetch, [name])
        return name

    async def answer(self, asked: Asked) -> Answer | Refused:
        """RIRs, as :meth:`RoomPredictor.predict` gives them in one process."""
        problem = await self.fetch(asked.name)
        if problem is not None:
            return problem
        return await asyncio.get_running_loop().run_in_executor(self._computing, self._answer, asked)

    async def fetch(self, name: str) -> Refused | None:
        """Have a room in memory; why not, where that cannot be."""
        try:
            await self.loaded(name)
        except InputError as error:
            there = (AdapterName.parse(name).folder(self._store) / CARD).is_file()
            return Refused(409 if there else 404, str(error))
        return None

    def _answer(self, asked: Asked) -> Answer | Refused:
        try:
            self._predictor.switch(asked.name)
            rirs = self._predictor.predict(asked.positions, **asked.options)
        except InputError as error:
            return Refused(400, str(error))
        rate = int(asked.options.get("sample_rate") or self._predictor.sample_rate)
        return Answer(asked.name, rirs, rate, self._predictor.scale, str(os.getpid()))


class Door:
    """Reads requests, sends each to a replica that holds its room, and to another one if that dies."""

    def __init__(self, rooms: Any) -> None:
        self._rooms = rooms

    async def __call__(self, request: Request) -> Response:
        """Answer a request; what is wrong with it is one line, with a status from 400 on."""
        try:
            found = await self._found(request)
        except InputError as error:
            found = Refused(400, str(error))
        return found if not isinstance(found, Refused) else _response(f"{found.line}\n", found.status, "text/plain")

    async def _found(self, request: Request) -> Response | Refused:
        path, method = request.url.path, request.method
        if path == "/" and method == "GET":
            return _response(f"haa-peft {__version__}; POST /predict, POST /prefetch\n", 200, "text/plain")
        if path not in ("/", "/predict", "/prefetch"):
            return Refused(404, f"{path:.60} is not here; POST /predict or /prefetch")
        if path == "/" or method != "POST":
            return Refused(405, f"{method} {path} is not done; POST /predict or /prefetch")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                return Refused(413, f"the body has more than {LARGEST_BODY} bytes; ask in several requests")
        if path == "/prefetch":
            return await self._prefetch(read_json(body))
        content_type = request.headers.get("content-type", JSON)
        asked = Asked.read(body, content_type)
        found = await self._of_a_replica("answer", asked.name, asked)
        if isinstance(found, Refused):
            return found
        content, kind = found.body(request.headers.get("accept") or "" if "accept" in request.headers else content_type)
        return _response(content, 200, kind, {"x-replica": found.replica})

    async def _prefetch(self, given: dict[str, Any]) -> Response | Refused:
        """Have rooms in memory before they are asked for."""
        names = given.get("names")
        if not isinstance(names, list) or not names:
            raise InputError("names must be a list of adapters, such as ['room/configuration']")
        for name in names:
            AdapterName.parse(name)
        problems = await asyncio.gather(*(self._of_a_replica("fetch", name, name) for name in names))
        refused = next(filter(None, problems), None)
        return refused or _response(f"{len(names)} in memory\n", 200, "text/plain")

    async def _of_a_replica(self, method: str, name: str, given: Any) -> Any:
        """What a replica that holds the room gives; one that dies meanwhile is not the last."""
        from ray.exceptions import RayError, RayTaskError

        for attempt in range(ATTEMPTS):
            try:
                handle = self._rooms.options(multiplexed_model_id=name)
                return await getattr(handle, method).remote(given)
            except RayTaskError:
                raise
            except RayError:
                await asyncio.sleep(PAUSE * 2**attempt)
        return Refused(503, "no process that holds rooms is there; ask again later")


def _response(content: bytes | str, status: int, kind: str, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(content, status, headers, kind)
