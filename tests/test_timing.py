from types import SimpleNamespace

import torch
from benchmarking import timing
from benchmarking.timing import operations, race


def test_operations_of_a_product_and_of_attention():
    a, b = torch.randn(30, 40), torch.randn(40, 50)
    assert operations(lambda: a @ b) == 2 * 30 * 40 * 50
    q, k = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 32, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    # two products, multiplications and additions
    assert operations(lambda: attention(q, k, k)) == 2 * 2 * (2 * 4 * 16 * 32 * 8)


def test_race_times_every_case_in_every_round(monkeypatch):
    now = [0]

    def case(seconds):
        now[0] += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert race({"short": lambda: case(1), "long": lambda: case(20)}, 3, "cpu") == {"short": [1] * 3, "long": [20] * 3}
    assert now[0] == 4 * 21  # a round before did not count
