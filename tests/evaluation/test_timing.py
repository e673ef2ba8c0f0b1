import time

import torch

from haa_peft.evaluation.timing import operations, race


def test_operations_of_a_product_and_of_attention():
    a, b = torch.randn(30, 40), torch.randn(40, 50)
    assert operations(lambda: a @ b) == 2 * 30 * 40 * 50
    q, k = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 32, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    # two products, multiplications and additions
    assert operations(lambda: attention(q, k, k)) == 2 * 2 * (2 * 4 * 16 * 32 * 8)


def test_race_times_every_case_in_every_round():
    seconds = race({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.02)}, 3, "cpu")
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert min(seconds["long"]) >= 0.02 > min(seconds["short"]) >= 0.001
