"""Writers that are killed, readers beside writers, and two runs under one name."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from haa_peft import load_room
from haa_peft.errors import InputError
from haa_peft.files import hold
from haa_peft.store import folder as folder_module
from haa_peft.store.folder import read_pack, write_pack
from tests.store.test_store import NAME, make_pack

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def packs(room_folder, tiny_backbone):
    room = load_room(room_folder)
    return [make_pack(room, tiny_backbone, shift=shift) for shift in (0.5, 1.0)]


def which(pack, known):
    """Which of the known packs a pack is, as a whole."""
    same = [all(torch.equal(pack.tensors[key], t) for key, t in one.tensors.items()) for one in known]
    (found,) = np.flatnonzero(same)
    return found


def write_for_ever(store, packs):
    while True:
        for pack in packs:
            write_pack(store, pack)


def die_with_half_a_pack(store, pack):
    folder_module._swap = lambda *_: os._exit(9)
    write_pack(store, pack)


def test_what_a_killed_writer_left_goes_with_the_next_write(packs, tmp_path):
    write_pack(tmp_path, packs[0])
    for _ in range(2):
        process = FORK.Process(target=die_with_half_a_pack, args=(tmp_path, packs[1]))
        process.start()
        process.join()
        assert process.exitcode == 9
        assert len([path for path in (tmp_path / "studio").iterdir() if ".new-" in path.name]) == 1
    living, handle = folder_module._new_folder(NAME.folder(tmp_path))
    with handle:  # a writer that lives keeps its folder
        write_pack(tmp_path, packs[1])
        assert {path.name for path in (tmp_path / "studio").iterdir()} == {"base", living.name}
    assert which(read_pack(tmp_path, NAME), packs) == 1


def kills(store, packs, count):
    """Kill so many writers at random times; the entry is whole after each."""
    rng = np.random.default_rng(5)
    write_pack(store, packs[0])
    found = [0, 0]
    for _ in range(count):
        process = FORK.Process(target=write_for_ever, args=(store, packs))
        process.start()
        time.sleep(rng.uniform(0.001, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found[which(read_pack(store, NAME), packs)] += 1
    write_pack(store, packs[0])
    assert [path.name for path in (store / "studio").iterdir()] == ["base"]
    return found


def reads(store, packs, count):
    """Read so often while another process writes; how often each of two packs was found, whole."""
    write_pack(store, packs[0])
    process = FORK.Process(target=write_for_ever, args=(store, packs), daemon=True)
    process.start()
    found = [0, 0]
    try:
        for _ in range(count):
            found[which(read_pack(store, NAME), packs)] += 1
    finally:
        process.kill()
        process.join()
    return found


def test_some_kills(packs, tmp_path):
    assert sum(kills(tmp_path, packs, 3)) == 3


def test_some_reads_against_a_writer(packs, tmp_path):
    assert sum(reads(tmp_path, packs, 30)) == 30


@pytest.mark.long
def test_fifty_kills(packs, tmp_path):
    print(f"50 kills: the entry was whole each time, {kills(tmp_path, packs, 50)} of two states")


@pytest.mark.long
def test_twenty_thousand_reads_against_a_writer(packs, tmp_path):
    found = reads(tmp_path, packs, 20_000)
    print(f"20000 reads against a writer: all whole, {found} of two states")
    assert min(found) > 0


def hold_and_wait(folder, ready):
    with ExitStack() as handle:
        hold(folder, handle)
        ready.set()
        threading.Event().wait()


def test_a_second_run_waits_for_the_first_to_end_or_die(tmp_path):
    ready = FORK.Event()
    process = FORK.Process(target=hold_and_wait, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    with ExitStack() as handle, pytest.raises(InputError, match="run: another run writes there; wait for its end, or"):
        hold(tmp_path / "run", handle)
    process.kill()
    process.join()
    with ExitStack() as handle:
        hold(tmp_path / "run", handle)
    (tmp_path / "file").write_text("")
    with ExitStack() as handle, pytest.raises(InputError, match="cannot be written"):
        hold(tmp_path / "file", handle)
