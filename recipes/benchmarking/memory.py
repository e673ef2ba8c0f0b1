"""Memory of a training step, each in a process of its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarking.cases import (
    PLAIN_TARGETS,
    Step,
    make_backbone,
    make_room,
)
from benchmarking.timing import resident, start_peak
from haa_peft.errors import InputError

RECIPE = Path(__file__).parents[1] / "benchmark.py"


def memory(size: str, device: str, rounds: int) -> dict:
    """Peak memory of a training step beyond what the process held before it, each in a process of its own."""
    rows = {}
    for case in ("plain full", "full", "full checkpointing", "lora", "lora checkpointing", "bias"):
        command = [sys.executable, RECIPE, "--memory-of", case, size, device]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            raise InputError(f"measuring memory of {case} at size {size} failed: {found.stderr.strip()[-200:]}")
        rows[case] = json.loads(found.stdout.splitlines()[-1])
    plain = rows["plain full"]["bytes"]
    for row in rows.values():
        row["of_plain_full"] = row["bytes"] / plain
    return {"rows": rows}


def memory_of(case: str, size: str, device: str) -> None:
    """Print the peak memory of two training steps as JSON."""
    backbone, room = make_backbone(size, device), make_room(12)
    method = case.split()[-1] if case.startswith("plain") else case.split()[0]
    gc.collect()
    before = held = 0
    if device == "cpu":
        before = start_peak()
    else:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    step = Step(backbone, room, method, plain=case.startswith("plain"), checkpointing="checkpointing" in case)
    for _ in range(2):
        step()
    peak = (torch.cuda.max_memory_allocated() - held) if device != "cpu" else resident("VmHWM") - before
    print(json.dumps({"bytes": peak, "targets": PLAIN_TARGETS if step.plain else 12}))
