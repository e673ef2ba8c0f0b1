"""Time, operations and memory of a computation, against what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from haa_peft.errors import InputError
from haa_peft.model.linear import product
from haa_peft.model.xrir import XRIR


def wait(device: str) -> None:
    """Until a device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def race(cases: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every case in every round; one round before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    from tqdm import tqdm

    for turn in tqdm(range(rounds + 1), desc=", ".join(cases)[:60], leave=False):
        for name, case in cases.items():
            wait(device)
            start = time.perf_counter()
            case()
            wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def attention_operations(query: tuple, key: tuple, *_: object, **__: object) -> int:
    """Of attention (B, heads, tokens, width), which torch does not count on a CPU."""
    batch, heads, tokens, width = query
    return 4 * batch * heads * tokens * key[2] * width


def attention_gradient_operations(_: tuple, query: tuple, key: tuple, *__: object, **___: object) -> int:
    """Of its gradient: five products where forward has two."""
    return 5 * attention_operations(query, key) // 2


def operations(case: Callable[[], object]) -> int:
    """Multiplications and additions of a case in products, convolutions and attention."""
    aten = torch.ops.aten
    counted = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_gradient_operations,
    }
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        case()
    return counter.get_total_flops()


def rates(device: str) -> dict[str, float]:
    """What the machine does at best here: operations a second in large products, bytes a second in large copies."""
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    block = torch.zeros(2**26, device=device)
    other = torch.empty_like(block)
    lower = a.bfloat16(), b.bfloat16()
    cases = {
        "float32": lambda: product(a, b),
        "bfloat16": lambda: product(*lower),
        "copy": lambda: other.copy_(block),
    }
    found = {name: min(seconds) for name, seconds in race(dict(cases), 6, device).items()}
    return {
        "operations_per_s": 2 * size**3 / found["float32"],
        "bfloat16_operations_per_s": 2 * size**3 / found["bfloat16"],
        "bytes_per_s": 2 * block.nbytes / found["copy"],
    }


def floor(case: str, operated: float, moved: float, best: dict[str, float]) -> float:
    """Least seconds for these operations and bytes at the measured rates.

    Parameters
    ----------
    case : its name; one with ``bfloat16`` is held against that rate.
    operated, moved : operations and bytes.
    best : what :func:`rates` gave.
    """
    rate = best["bfloat16_operations_per_s" if "bfloat16" in case else "operations_per_s"]
    return max(operated / rate, moved / best["bytes_per_s"])


def tensor_bytes(backbone: XRIR) -> int:
    """Bytes of a backbone's weights and buffers."""
    return sum(t.nbytes for t in backbone.state_dict().values())


def start_peak() -> int:
    """Bytes in memory now; the peak counts from here on. ``InputError`` where it cannot be measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        raise InputError("peak memory on the CPU can be measured on Linux alone; leave memory out of --parts") from None
    return resident("VmRSS")


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
