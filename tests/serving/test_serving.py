"""Answers over HTTP: those of a predictor in this process, whatever dies meanwhile."""

import asyncio
import io
import json
import os
import signal
import socket
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.serving import messages
from haa_peft.serving.application import Door, Replica, Serving
from haa_peft.serving.client import Client
from haa_peft.serving.messages import JSON, NPZ, Answer, Asked, Refused
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

ROOMS = [AdapterName("studio", f"state-{number}") for number in range(6)]
PLACES = np.array([[1.0, 1.0, 1.0], [3.0, 2.0, 1.5], [4.5, 3.0, 1.2]])


@pytest.fixture
def store(room_folder, tiny_backbone, tmp_path):
    room = load_room(room_folder)
    for number, name in enumerate(ROOMS):
        write_pack(tmp_path / "store", make_pack(room, tiny_backbone, name, shift=0.01 * number))
    return tmp_path / "store"


@pytest.fixture
def expected(store, tiny_backbone):
    """What one process gives: a function of a name, positions and options."""
    predictor = RoomPredictor.load(str(ROOMS[0]), store=store, backbone=tiny_backbone)

    def predict(name, places, **options):
        predictor.switch(str(name))
        return predictor.predict(places, **options)

    return predict


def test_a_request_is_read_as_it_was_meant():
    asked = Asked("a/b@c", PLACES, {"k": 4, "seed": 3, "receiver": np.array([1.0, 2.0, 3.0])})
    for body, kind in (
        (asked.npz(), NPZ),
        (json.dumps({"name": "a/b@c", "positions": PLACES.tolist(), "k": 4, "seed": 3, "receiver": [1, 2, 3]}).encode(),
         f"{JSON}; charset=utf-8"),
    ):  # fmt: skip
        found = Asked.read(body, kind)
        assert found.name == asked.name
        np.testing.assert_array_equal(found.positions, PLACES)
        np.testing.assert_array_equal(found.options.pop("receiver"), [1, 2, 3])
        assert found.options == {"k": 4, "seed": 3}


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("positions.npy", bytes(2 * messages.LARGEST_BODY))
    return file.getvalue()


def pickled():
    file = io.BytesIO()
    np.savez(file, name="a/b", positions=np.array([{}], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", JSON, "must be a JSON object"),
        (b"[" * 100_000, JSON, "must be a JSON object"),
        (b"[1]", JSON, "must be a JSON object"),
        (b"{}", NPZ, "is no npz file"),
        (pickled(), NPZ, "is no npz file"),
        (bomb(), NPZ, "when unpacked"),
        (b'{"name": "a/b"}', JSON, "positions is missing"),
        (b'{"positions": [[1, 2, 3]]}', JSON, "name is missing"),
        (b'{"name": "../x", "positions": [[1, 2, 3]]}', JSON, "adapter name '../x' must be"),
        (b'{"name": "hf://u/r/a/b", "positions": [[1, 2, 3]]}', JSON, "adapter name"),
        (b'{"name": 3, "positions": [[1, 2, 3]]}', JSON, "adapter name 3 must be"),
        (b'{"name": "a/b", "positions": [[1, 2]]}', JSON, "positions are (1, 2) but must be"),
        (b'{"name": "a/b", "positions": []}', JSON, "positions are"),
        (b'{"name": "a/b", "positions": "here"}', JSON, "positions are 'here' but must be"),
        (b'{"name": "a/b", "positions": [[1, 2, 3], [1]]}', JSON, "positions are"),
        (json.dumps({"name": "a/b", "positions": [[1, 2, 3]] * 600}).encode(), JSON, "with N from 1 to 512"),
        (b'{"name": "a/b", "positions": [[1, 2, 3]], "rate": 3}', JSON, "'rate' is none of name, positions, k"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_said_in_a_line(body, kind, message):
    with pytest.raises(InputError) as refused:
        Asked.read(body, kind)
    assert message in str(refused.value)


@pytest.mark.parametrize(("accept", "kind"), [("*/*", NPZ), ("", NPZ), (JSON, JSON), (f"{JSON}, {NPZ}", NPZ)])
def test_samples_come_back_to_the_last_bit(accept, kind):
    rirs = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    content, found = Answer("a/b", rirs, 22_050, 0.25, "7").body(accept)
    assert found == kind
    if kind == JSON:
        read = json.loads(content)
        again = np.array(read["rirs"], dtype=np.float32)
    else:
        read = np.load(io.BytesIO(content))
        again = read["rirs"]
    assert (int(read["sample_rate"]), float(read["scale"]), str(read["name"])) == (22_050, 0.25, "a/b")
    np.testing.assert_array_equal(again, rirs)


def test_a_replica_answers_as_a_predictor_does(store, tiny_backbone_file, expected):
    wanted = [expected(name, PLACES, seed=i) for i, name in enumerate(ROOMS)]
    replica = Replica(Serving(store, str(tiny_backbone_file), max_loaded=2, pinned=(str(ROOMS[5]),)))

    async def ask():
        asked = [Asked(str(name), PLACES, {"seed": i}) for i, name in enumerate(ROOMS)]
        every = await asyncio.gather(*(replica.answer(one) for one in asked))
        (ROOMS[1].folder(store) / "references.safetensors").write_bytes(b"")
        refused = [
            await replica.answer(Asked("studio/nowhere", PLACES)),
            await replica.answer(Asked(str(ROOMS[0]), PLACES + 100)),
            await replica.answer(Asked(str(ROOMS[0]), PLACES, {"k": "x"})),
            await replica.answer(Asked(str(ROOMS[1]), PLACES)),
        ]
        return every, refused

    every, refused = asyncio.run(ask())
    for answer, rirs in zip(every, wanted, strict=True):
        np.testing.assert_array_equal(answer.rirs, rirs)
    assert [one.status for one in refused] == [404, 400, 400, 409]
    assert len(replica._predictor.loaded) <= 2
    assert str(ROOMS[5]) in replica._predictor.loaded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": Path("nowhere")}, "store nowhere is no folder"),
        ({"store": Path("hf://user/rooms")}, "is on the Hub"),
        ({"port": 0}, "--port is 0 but must be"),
        ({"replicas": 0}, "--replicas is 0 but must be"),
        ({"max_loaded": 0}, "--max-loaded is 0 but must be"),
        ({"pinned": ("a/b",)}, "no adapter a/b in store"),
        ({"pinned": ("x",)}, "adapter name 'x' must be"),
        ({"pinned": (str(ROOMS[0]), str(ROOMS[1])), "max_loaded": 1}, "2 rooms are pinned but --max-loaded is 1"),
    ],
)
def test_what_cannot_be_served(changes, message, store):
    with pytest.raises(InputError, match=message):
        Serving(**{"store": store, **changes})


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "is no folder" in capsys.readouterr().err


class Dying:
    """Stands for a handle of replicas, the first of which die."""

    def __init__(self, deaths):
        self.deaths, self.asked = deaths, []

    def options(self, multiplexed_model_id):
        self.asked.append(multiplexed_model_id)
        return self

    @property
    def answer(self):
        return self

    async def remote(self, asked):
        from ray.exceptions import ActorDiedError

        if self.deaths:
            self.deaths -= 1
            raise ActorDiedError
        return "an answer"


def test_a_request_whose_replica_dies_goes_to_another(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("haa_peft.serving.application.PAUSE", 0)
    rooms = Dying(3)
    assert asyncio.run(Door(rooms)._of_a_replica("answer", "a/b", None)) == "an answer"
    assert rooms.asked == ["a/b"] * 4
    assert asyncio.run(Door(Dying(99))._of_a_replica("answer", "a/b", None)).status == 503
    assert isinstance(asyncio.run(Door(Dying(99))._of_a_replica("answer", "a/b", None)), Refused)


@pytest.fixture
def server(store, tiny_backbone_file, monkeypatch):
    """The application on a Ray cluster of two nodes, with a replica on each; where it listens."""
    pytest.importorskip("starlette", reason="ray[serve] is not installed")
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.serve")
    from ray.cluster_utils import Cluster

    from haa_peft.serving import start, stop

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        cluster.add_node(num_cpus=1, **memory)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        serving = Serving(store, str(tiny_backbone_file), port=port, replicas=2, max_loaded=4, cluster=True)
        yield start(serving)
        stop(serving)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_cluster_of_two_nodes(server, expected):
    answers_equal(server, expected)
    refusals(server)
    rooms_stay_where_they_are(server)
    killed_replicas(server, expected)


def answers_equal(url, expected):
    client = Client(url)
    client.prefetch([str(name) for name in ROOMS[:2]])
    for name in ROOMS:
        for options in ({}, {"seed": 3, "k": 5}, {"length": 0.6, "sample_rate": 16_000}):
            found = client.predict(str(name), PLACES, **options)
            np.testing.assert_array_equal(found, expected(name, PLACES, **options))
    body = {"name": str(ROOMS[0]), "positions": PLACES.tolist()}
    answer = requests.post(f"{url}/predict", json=body, headers={"accept": JSON}, timeout=60)
    assert answer.headers["content-type"] == JSON
    np.testing.assert_array_equal(np.array(answer.json()["rirs"], np.float32), expected(ROOMS[0], PLACES))


def refusals(url):
    """One line with a status from 400 on."""
    good = {"name": str(ROOMS[0]), "positions": [[1.0, 1.0, 1.0]]}
    for path, body, status in (
        ("predict", b"{", 400),
        ("predict", {**good, "positions": [[99, 1, 1]]}, 400),
        ("predict", {**good, "name": "studio/nowhere"}, 404),
        ("predict", b" " * (messages.LARGEST_BODY + 1), 413),
        ("prefetch", {"names": "studio/base"}, 400),
        ("nothing", good, 404),
    ):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = requests.post(f"{url}/{path}", data=data, timeout=60)
        assert answer.status_code == status
        assert answer.text.count("\n") == 1
        assert "Traceback" not in answer.text
    assert requests.get(f"{url}/predict", timeout=60).status_code == 405
    assert requests.get(url, timeout=60).text.startswith("haa-peft ")


def rooms_stay_where_they_are(url):
    """A room is asked for where it lies, and rooms lie in both processes."""
    client, found = Client(url), {}
    for _ in range(8):
        for name in ROOMS[:4]:
            client.predict(str(name), PLACES[:1])
            found.setdefault(name, []).append(client.replica)
    assert all(len(set(replicas[2:])) == 1 for replicas in found.values())
    assert len({replicas[-1] for replicas in found.values()}) == 2


def killed_replicas(url, expected):
    """Eight clients ask while a process that holds rooms is killed, and then the one at the door."""
    answers, problems = [], []

    def ask(number):
        client, rng = Client(url), np.random.default_rng(number)
        try:
            for _ in range(40):
                name, seed = ROOMS[rng.integers(len(ROOMS))], int(rng.integers(3))
                answers.append((name, seed, client.predict(str(name), PLACES, seed=seed)))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for kind in ("Rooms", "Door"):
        while len(answers) < (40 if kind == "Rooms" else 150) and not problems:
            threads[0].join(0.1)
        kill(kind)
    for thread in threads:
        thread.join(300)
    assert not problems
    assert len(answers) == 8 * 40
    known = {(name, seed): expected(name, PLACES, seed=seed) for name in ROOMS for seed in range(3)}
    for name, seed, rirs in answers:
        np.testing.assert_array_equal(rirs, known[name, seed])


def kill(kind):
    """One process of Ray Serve that runs a class of ours."""
    import psutil

    name = {"Rooms": "rooms", "Door": "door"}[kind]
    below = psutil.Process().children(recursive=True)
    processes = [one for one in below if f"ServeReplica:haa-peft:{name}" in " ".join(one.cmdline())]
    assert processes
    os.kill(processes[0].pid, signal.SIGKILL)
