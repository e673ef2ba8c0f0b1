"""Many threads, one predictor: every answer is one that a thread alone gives, to the last bit."""

import dataclasses
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, load_room
from haa_peft.inference.packs import prepare_pack
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName, iterate_names
from haa_peft.store.pack_files import to_files
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
    """What one thread is answered in every state: each query alone, all together, all in a batch with the next room."""
    known, pairs = {str(name): [] for name in states}, {str(name): [] for name in states}
    for own, of_next in itertools.product(range(len(SHIFTS)), repeat=2):
        for i, packs in enumerate(states.values()):  # an even number of rooms
            write_pack(store, packs[(own, of_next)[i % 2]])
        predictor = RoomPredictor.load(next(iter(known)), store=store, backbone=backbone)
        for name in known:
            if own == of_next:
                predictor.switch(name)
                known[name].append([*(predictor.predict(one)[0] for one in QUERIES), predictor.predict(QUERIES)])
            pairs[name].append(predictor.predict_many([(name, QUERIES), (after(name, known), QUERIES)]))
    return known, pairs


def after(name, names):
    names = list(names)
    return names[(names.index(name) + 1) % len(names)]


def load_test(states, truth, backbone, store, threads, answers, max_loaded):
    """How many of so many answers, while stores are replaced, are none that one thread was given; and answers/s."""
    (known, pairs), names = truth, list(states)
    predictor = RoomPredictor.load(str(names[0]), store=store, backbone=backbone, max_loaded=max_loaded)
    stop, wrong, stored = threading.Event(), [], {}

    def replace():
        rng = np.random.default_rng(9)
        while not stop.is_set():
            name, which = names[rng.integers(len(names))], rng.integers(len(SHIFTS))
            write_pack(store, states[name][which])
            stored[str(name)] = states[name][which]
            time.sleep(0.01)

    def ask(seed):
        rng = np.random.default_rng(seed)
        for _ in range(answers // threads):
            name, i = str(names[rng.integers(len(names))]), rng.integers(len(QUERIES) + 1)
            if rng.random() < 0.5:
                predictor.switch(name)
                assert predictor.name == name
                found = predictor.predict(QUERIES[i] if i < len(QUERIES) else QUERIES).squeeze()
                right = any(np.array_equal(found, state[i]) for state in known[name])
            else:
                found = predictor.predict_many([(name, QUERIES), (after(name, known), QUERIES)])
                right = any(all(map(np.array_equal, found, pair)) for pair in pairs[name])
            wrong.extend([name] * (not right))

    writer, start = threading.Thread(target=replace), time.perf_counter()
    writer.start()
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(ask, range(threads)))
    finally:
        rate = answers / (time.perf_counter() - start)
        stop.set()
        writer.join()
    fresh = RoomPredictor.load(str(names[0]), store=store, backbone=backbone)
    for name in stored:  # what is stored now counts
        predictor.switch(name)
        fresh.switch(name)
        wrong.extend([name] * (not np.array_equal(predictor.predict(QUERIES), fresh.predict(QUERIES))))
    return len(wrong), rate


@pytest.fixture
def quick_switches():
    """Threads take turns every 10 microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_answers_of_many_threads_are_those_of_one(room, tiny_backbone, tmp_path, quick_switches):
    states = packs_of(room, tiny_backbone, 4)
    truth = truths(states, tiny_backbone, tmp_path)
    assert all(not np.array_equal(given[0][-1], given[-1][-1]) for given in truth[0].values())
    assert load_test(states, truth, tiny_backbone, tmp_path, threads=4, answers=32, max_loaded=2)[0] == 0


@pytest.mark.long
def test_ten_thousand_answers(room, tiny_backbone, tmp_path):
    states = packs_of(room, tiny_backbone, 32)
    truth = truths(states, tiny_backbone, tmp_path)
    alone, rate_alone = load_test(states, truth, tiny_backbone, tmp_path, threads=1, answers=1000, max_loaded=8)
    wrong, rate = load_test(states, truth, tiny_backbone, tmp_path, threads=8, answers=10_000, max_loaded=8)
    print(f"10000 answers of 8 threads: {wrong} wrong, {rate:.1f} a second; 1000 of one: {alone}, {rate_alone:.1f}")
    moved = max(
        np.abs(pair[0] - own[-1]).max() / np.abs(own[-1]).max()
        for name, given in truth[0].items()
        for own, pair in zip(given, truth[1][name][:: len(SHIFTS) + 1], strict=True)
    )
    print(f"another room in the batch moves an answer by up to {moved:.1e} of its loudest sample")
    assert (alone, wrong) == (0, 0)


def test_company_moves_answers_of_trained_adapters_by_rounding_alone():
    """Eight rooms of the repository in one batch, to 1e-4 of the loudest sample."""
    store = Path(__file__).parents[2] / "adapters"
    bounds = {name: read_pack(store, name).geometry.bounds() for name in iterate_names(store)}
    asked = [
        (str(name), low + (high - low) * [[0.3, 0.4, 0.5], [0.7, 0.3, 0.4]]) for name, (low, high) in bounds.items()
    ]
    predictor = RoomPredictor.load(asked[0][0], store=store)
    moved = []
    for (name, positions), found in zip(asked, predictor.predict_many(asked), strict=True):
        predictor.switch(name)
        alone = predictor.predict(positions)
        moved.append(np.abs(found - alone).max() / np.abs(alone).max())
    print(f"{len(asked)} rooms in one batch move each other's answers by up to {max(moved):.1e} of the loudest sample")
    assert max(moved) < 1e-4


def test_a_pack_whose_card_looks_the_same_is_loaded_anew(room, tiny_backbone, tmp_path):
    """Written into the same files, with the size and the time of the former one."""
    first, second = (make_pack(room, tiny_backbone, shift=shift) for shift in SHIFTS)
    folder = write_pack(tmp_path, first)
    predictor = RoomPredictor.load(str(first.name), store=tmp_path, backbone=tiny_backbone)
    before = predictor.predict(QUERIES)
    about = (folder / "card.json").stat()
    for file_name, content in to_files(second).items():
        (folder / file_name).write_bytes(content)
    os.utime(folder / "card.json", ns=(about.st_atime_ns, about.st_mtime_ns))
    now = (folder / "card.json").stat()
    assert (now.st_ino, now.st_mtime_ns, now.st_size) == (about.st_ino, about.st_mtime_ns, about.st_size)
    predictor.switch(str(first.name))
    assert np.abs(predictor.predict(QUERIES) - before).max() > 1e-3


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
