"""Made-up runs of a study, and a study of a made-up room and a tiny network."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest

GROUPS = {"nearest": "baseline", "backbone": "baseline", "full": "full"}
WEIGHTS = {"lora": 30_004, "bias": 3977, "full": 742_802}


@pytest.fixture
def write_run(tmp_path):
    """Write one run below the study's folder; ``edt`` are its errors (s), the others are in proportion."""

    def write(run, edt, *, name="r3vival/000", seed=0, positions=None, shots=12, trained_on=None, **changes) -> Path:
        room, configuration = name.split("/")
        group = GROUPS.get(run, "adapter")
        positions = list(range(len(edt))) if positions is None else list(positions)
        edt = np.array(edt, dtype=float)
        xyz = np.random.default_rng(1).uniform(0.5, 5, (40, 3))
        given = lambda factor: [None if e != e else factor * e for e in edt]  # noqa: E731
        entry = {
            "study": "test", "run": run, "label": "", "group": group, "room": room, "configuration": configuration,
            "reconstruction": room == "hallway", "seed": seed, "shots": shots, "k": 8, "split": "test",
            "trained_on": None if group == "baseline" else trained_on or name,
            "settings": {}, "room_fingerprint": "ab", "versions": {"torch": "2.11"}, "commit": "a0edd14",
            "backbone": {"origin": "bundled small", "fingerprint": "1234" * 16},
            "splits": {"train": list(range(20, 32)), "valid": [], "test": positions},
            "trainable_parameters": WEIGHTS.get(run, 0), "bytes": 4 * WEIGHTS.get(run, 0),
            "seconds": None if group == "baseline" else 6.0, "best_step": 0, "steps": 80, "validation": [[0, 1.0]],
            "positions": positions, "positions_xyz": xyz[positions].tolist(), "receiver_xyz": [2, 2, 1.2],
            "references_xyz": xyz[20:32].tolist(), "floor_plan": [[[0, 0], [6, 0]], [[6, 0], [6, 6]]],
            "errors": {
                "edt_s": given(1), "c50_db": given(20), "t60_percent": given(100), "t60_30_percent": given(90),
                "envelope_percent": given(50), "iso_c50_db": given(20),
            },
            "truth": {"edt_s": [0.4] * len(edt), "c50_db": [6.0] * len(edt), "t60_s": [0.5] * len(edt)},
            "decay_curves": {
                "position": [0], "time_s": [0, 0.1, 0.2], "true_db": [[0, -12, -24]], "predicted_db": [[0, -11, -22]],
            },
        } | changes  # fmt: skip
        source = (entry["trained_on"] or "").replace("/", "-")
        path = tmp_path / "study" / "runs" / run / f"{room}-{configuration}-{source}-{shots}-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
        return tmp_path / "study"

    return write


RUNS = """
  lora: {rank: 2, transfer: true}
  bias: {method: bias, lr: 1e-2}
  full: {method: full}
  varied: {rank: 2, augment: [mirror, positions=0.1], only: [studio/panel]}
  warm: {rank: 2, start: {run: lora, configuration: base}, only: [studio/panel]}
  upper: {rank: 1, on_top_of: {run: lora, configuration: base}, only: [studio/panel]}
  staged: {rank: 2, first_stage: [studio/base, studio/panel], only: [studio/panel]}
  between: {use: {run: lora}, blend: {base: 0.5, panel: 0.5}, only: [studio/panel]}
"""


@pytest.fixture
def rooms(room_folder):
    """Two configurations of a room; the second is a quieter copy with other noise."""
    panel = room_folder.with_name("panel")
    shutil.copytree(room_folder, panel)
    rirs = np.load(panel / "RIRs.npy")
    np.save(panel / "RIRs.npy", rirs * np.exp(-np.arange(rirs.shape[1]) / 20_000).astype(np.float32))
    return [room_folder, panel]


@pytest.fixture
def study_file(rooms, tiny_backbone_file, tmp_path):
    def write(runs=RUNS, **more):
        entries = {
            "rooms": json.dumps([str(room) for room in rooms]),
            "seeds": "[0]",
            "shots": "[12]",
            "k": "4",
            "backbone": str(tiny_backbone_file),
            "defaults": "{max_steps: 2, validate_every: 1, caution: 0}",
            "compare_with": "backbone",
            **more,
        }
        path = tmp_path / "made-up.yaml"
        text = "\n".join(f"{key}: {value}" for key, value in entries.items())
        path.write_text(f"{text}\nruns:{textwrap.indent(runs, '')}")
        return path

    return write


def kept_tests(out):
    return {
        path.relative_to(out / "runs").as_posix(): json.loads(path.read_text()) for path in out.rglob("runs/*/*.json")
    }
