import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from haa_peft.inference.turns import LARGE, Turns


@pytest.mark.parametrize(("count", "most"), [(1, 1), (LARGE - 1, 1), (LARGE, os.cpu_count())])
def test_how_many_compute_at_once(count, most):
    turns, lock, now, seen = Turns(), threading.Lock(), [0], []

    def compute(_):
        assert list(turns.each((item() for _ in range(3)), count)) == [1, 1, 1]

    def item():
        with lock:
            now[0] += 1
            seen.append(now[0])
        time.sleep(0.005)
        with lock:
            now[0] -= 1
        return 1

    with ThreadPoolExecutor(4 + os.cpu_count()) as pool:
        list(pool.map(compute, range(4 + os.cpu_count())))
    assert max(seen) == most


def test_a_turn_ends_with_what_goes_wrong_and_between_items():
    turns = Turns()
    waiting = turns.each(iter([1, 2]), 1)
    assert next(waiting) == 1
    assert list(turns.each(iter([3]), 1)) == [3]  # while the other waits for its second item
    with pytest.raises(ZeroDivisionError):
        list(turns.each((1 / 0 for _ in range(1)), 1))
    assert next(waiting) == 2
