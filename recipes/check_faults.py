"""Whether the checks of measurements find what is wrong, and accuse nothing that is right.

    python recipes/check_faults.py --shared ../shared/data --json faults.json

Some thirty faults are put into simulated rooms and, where there are some, measured ones (``--shared``), one fault a
folder; every folder is read and checked as before training. A fault counts as found if the finding, or the reader's
refusal, names it. Sound rooms count as accused if any finding is an error, or a note that is not true of them.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from haa_peft import load_room
from haa_peft.acoustics import iso_metrics
from haa_peft.commands.ending import command
from haa_peft.commands.outputs import check_report, write_report
from haa_peft.commands.parser import Parser
from haa_peft.commands.tables import markdown
from haa_peft.errors import InputError
from haa_peft.findings import check_room
from haa_peft.rooms.haa import haa_facts
from haa_peft.simulation import make_room

SEED = 2000
"""Of the simulated rooms."""
TRUE_NOTES = {"noise", "band", "truncated", "offset"}
"""Kinds whose notes say what a sound recording is limited by."""


@dataclass(frozen=True)
class Folder:
    """Measurements as a room folder holds them: RIRs (N, T), Hz, positions (N, 3) m, and ``room.json``."""

    rirs: np.ndarray
    positions: np.ndarray
    room: dict

    @property
    def rate(self) -> int:
        """Hz."""
        return self.room["sample_rate"]

    @property
    def receiver(self) -> np.ndarray:
        """(3,) m."""
        return np.array(self.room["receiver_xyz"])

    def write(self, folder: Path) -> Path:
        """Write it; its folder."""
        folder.mkdir(parents=True)
        np.save(folder / "RIRs.npy", self.rirs)
        np.save(folder / "xyzs.npy", self.positions)
        (folder / "room.json").write_text(json.dumps({**self.room, "room": "bench", "configuration": "base"}))
        return folder


Fault = Callable[[Folder, np.random.Generator], Folder]


def later(rirs: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """RIRs (N, T) later by whole samples (N,)."""
    moved = np.zeros_like(rirs)
    for row, rir, by in zip(moved, rirs, np.broadcast_to(samples, len(rirs)), strict=True):
        kept = rir[max(0, -by) : len(rir) - max(0, by)]
        row[max(0, by) : max(0, by) + len(kept)] = kept
    return moved


def latency(samples: int) -> Fault:
    return lambda room, rng: replace(room, rirs=later(room.rirs, samples))


def cut(room: Folder, rng: np.random.Generator) -> Folder:
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    return replace(room, rirs=later(room.rirs, 20 - np.rint(distance / 343 * room.rate).astype(int)))


def scaled(factor: float) -> Fault:
    def fault(room: Folder, rng: np.random.Generator) -> Folder:
        about = {**room.room, "receiver_xyz": (factor * room.receiver).tolist()}
        if "room_size" in about:
            about["room_size"] = [factor * x for x in about["room_size"]]
        else:
            about.pop("surfaces", None)
            about["geometry"] = "none"
        return replace(room, positions=factor * room.positions, room=about)

    return fault


def unknown_shape(room: Folder) -> dict:
    return {**{k: v for k, v in room.room.items() if k not in ("room_size", "surfaces")}, "geometry": "none"}


def axes(room: Folder, rng: np.random.Generator) -> Folder:
    order = [(1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1)][rng.integers(4)]
    return replace(room, positions=room.positions[:, order], room=unknown_shape(room))


def reversed_order(room: Folder, rng: np.random.Generator) -> Folder:
    return replace(room, positions=room.positions[::-1])


def receiver_off(metres: float) -> Fault:
    def fault(room: Folder, rng: np.random.Generator) -> Folder:
        step = rng.normal(size=3) * [1, 1, 0.2]
        moved = room.receiver + metres * step / np.linalg.norm(step)
        return replace(room, room={**unknown_shape(room), "receiver_xyz": moved.tolist()})

    return fault


def misplaced(room: Folder, rng: np.random.Generator) -> Folder:
    positions = room.positions.copy()
    row = rng.integers(len(positions))
    away = positions[row] - room.receiver
    positions[row] += away / np.linalg.norm(away) * rng.choice([-0.7, 1.0]) * min(1.0, np.linalg.norm(away))
    return replace(room, positions=positions, room=unknown_shape(room))


def swapped(room: Folder, rng: np.random.Generator) -> Folder:
    positions = room.positions.copy()
    distance = np.linalg.norm(positions - room.receiver, axis=1)
    rows = [distance.argmin(), distance.argmax()]
    positions[rows] = positions[rows[::-1]]
    return replace(room, positions=positions, room=unknown_shape(room))


def own_latencies(room: Folder, rng: np.random.Generator) -> Folder:
    return replace(room, rirs=later(room.rirs, rng.integers(0, round(0.03 * room.rate), len(room.rirs))))


def clockwise(room: Folder, rng: np.random.Generator) -> Folder:
    return replace(room, positions=(room.positions - room.receiver) * [1, -1, 1] + room.receiver)


def some(change: Callable[[np.ndarray], np.ndarray], rows: int = 1) -> Fault:
    def fault(room: Folder, rng: np.random.Generator) -> Folder:
        rirs = room.rirs.copy()
        chosen = rng.choice(len(rirs), rows, replace=False)
        rirs[chosen] = change(rirs[chosen])
        return replace(room, rirs=rirs)

    return fault


def every(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    return lambda room, rng: replace(room, rirs=change(room.rirs))


def noise(room: Folder, rng: np.random.Generator) -> Folder:
    level = 10 ** (-10 / 20) * np.abs(room.rirs).max(axis=1, keepdims=True)
    return replace(room, rirs=room.rirs + level * rng.normal(size=room.rirs.shape).astype(np.float32) / 3)


def hum(room: Folder, rng: np.random.Generator) -> Folder:
    time = np.arange(room.rirs.shape[1]) / room.rate
    mains = rng.choice([50, 60])
    wave = sum(np.sin(2 * np.pi * mains * k * time + rng.uniform(0, 7)) / k for k in range(1, 6))
    return replace(room, rirs=room.rirs + (0.02 * np.abs(room.rirs).max() * wave).astype(np.float32))


def band(room: Folder, rng: np.random.Generator) -> Folder:
    low = resample_poly(resample_poly(room.rirs, 1, 4, axis=1), 4, 1, axis=1)
    return replace(room, rirs=low[:, : room.rirs.shape[1]].astype(np.float32))


def twice(room: Folder, rng: np.random.Generator) -> Folder:
    rirs = room.rirs.copy()
    one, other = rng.choice(len(rirs), 2, replace=False)
    rirs[one] = rirs[other]
    return replace(room, rirs=rirs)


def rate(factor: int) -> Fault:
    return lambda room, rng: replace(room, room={**room.room, "sample_rate": factor * room.rate})


def stereo(room: Folder, rng: np.random.Generator) -> Folder:
    other = later(room.rirs, 3) * 0.8 + 0.1 * rng.normal(size=room.rirs.shape) * np.abs(room.rirs)
    return replace(room, rirs=np.stack([room.rirs, other.astype(np.float32)], axis=2).reshape(len(room.rirs), -1))


def wall(room: Folder, rng: np.random.Generator) -> Folder:
    size = np.array(room.room["room_size"])
    across = (room.receiver[0] + np.sort(room.positions[:, 0])[len(room.positions) // 2]) / 2
    x, y, z = size
    planes = [
        {"points": [[0, 0, 0], [x, 0, 0], [0, y, 0]]}, {"points": [[0, 0, z], [x, 0, z], [0, y, z]]},
        {"points": [[0, 0, 0], [0, y, 0], [0, 0, z]]}, {"points": [[x, 0, 0], [x, y, 0], [x, 0, z]]},
        {"points": [[0, 0, 0], [x, 0, 0], [0, 0, z]]}, {"points": [[0, y, 0], [x, y, 0], [0, y, z]]},
        {"points": [[across, 0, 0], [across, y, 0], [across, 0, z]]},
    ]  # fmt: skip
    return replace(room, room={**{k: v for k, v in room.room.items() if k != "room_size"}, "surfaces": planes})


def truncated(room: Folder, rng: np.random.Generator) -> Folder:
    t60 = room.room.get("t60_s") or float(
        np.nanmedian(iso_metrics(room.rirs, room.rate, bands=())["broadband"]["t20_s"])
    )
    return replace(room, rirs=room.rirs[:, : round(float(np.clip(t60 / 3, 0.105, 0.25)) * room.rate)])


def decibels(rirs: np.ndarray) -> np.ndarray:
    return (20 * np.log10(np.abs(rirs) / np.abs(rirs).max() + 1e-6)).astype(np.float32)


FAULTS: dict[str, tuple[Fault, str]] = {
    "latency of 40 samples": (latency(40), "latency"),
    "latency of 1098 samples": (latency(1098), "latency"),
    "latency of -20 samples": (latency(-20), "latency"),
    "delays cut off": (cut, "cut"),
    "all in mm": (scaled(1000), "units|in metres; check the unit"),
    "all in cm": (scaled(100), "units"),
    "all in feet": (scaled(1 / 0.3048), "units"),
    "another order of axes": (axes, "axes"),
    "positions in reverse order": (reversed_order, "order"),
    "receiver 0.25 m off": (receiver_off(0.25), "receiver"),
    "receiver 0.4 m off": (receiver_off(0.4), "receiver"),
    "receiver 0.6 m off": (receiver_off(0.6), "receiver"),
    "receiver 1 m off": (receiver_off(1.0), "receiver"),
    "two positions swapped": (swapped, "position"),
    "latency of 4800 samples": (latency(4800), "latency"),
    "one position 1 m off": (misplaced, "position"),
    "a latency of its own for each": (own_latencies, "delays"),
    "azimuths clockwise": (clockwise, "azimuth"),
    "a wall across the room": (wall, "wall"),
    "two RIRs inverted": (some(np.negative, 2), "polarity"),
    "clipped": (every(lambda rirs: np.clip(rirs, -0.3 * np.abs(rirs).max(), 0.3 * np.abs(rirs).max())), "clipped"),
    "one RIR silent": (some(np.zeros_like), "silent"),
    "one RIR 1000 times too loud": (some(lambda rirs: 1000 * rirs), "level"),
    "noise at -10 dB": (noise, "noise"),
    "mains hum": (hum, "hum"),
    "truncated before 0.25 s": (truncated, "truncated"),
    "42 ms long": (lambda room, rng: replace(room, rirs=room.rirs[:, : round(0.042 * room.rate)]), "short|silent"),
    "200 samples long": (lambda room, rng: replace(room, rirs=room.rirs[:, :200]), "short|silent"),
    "one sample long": (lambda room, rng: replace(room, rirs=1 + room.rirs[:, :1]), "short"),
    "nothing above a quarter of the band": (band, "band"),
    "the same RIR twice": (twice, "same"),
    "all RIRs the same": (every(lambda rirs: np.repeat(rirs[:1], len(rirs), axis=0)), "same"),
    "rate twice as high as it is": (rate(2), "rate"),
    "interleaved stereo": (stereo, "stereo"),
    "uint8 with its offset": (
        every(lambda rirs: (127 * rirs / np.abs(rirs).max(axis=1, keepdims=True) + 128).astype(np.uint8)), "offset"),
    "decibels": (every(decibels), "decibels"),
    "squared": (every(np.square), "squared"),
    "reversed in time": (every(lambda rirs: rirs[:, ::-1]), "reversed"),
    "constant": (every(np.ones_like), "constant"),
}  # fmt: skip
MEASURED, OTHER_MEASURED = ("000", "100", "RB", "classroomBase"), ("050", "unis-a-l", "hallwayBase")
"""Shared rooms that faults are put into, with seed 0 and with others."""
NEEDS_BOX = {"azimuths clockwise", "a wall across the room"}


def simulated(index: int) -> Folder:
    return read(Path(str(make_room(f"simulated/{SEED}-{index}"))))


def read(folder: Path, count: int | None = None) -> Folder:
    rirs, positions = np.load(folder / "RIRs.npy"), np.load(folder / "xyzs.npy").astype(float)
    if (folder / "room.json").exists():
        room = json.loads((folder / "room.json").read_text())
    else:
        facts = haa_facts()[folder.name]
        room = {"sample_rate": 48_000, "receiver_xyz": facts["speaker_xyz"], "surfaces": facts["surfaces"]}
    room.pop("splits", None)
    rows = np.linspace(0, len(rirs) - 1, min(len(rirs), count or len(rirs))).round().astype(int)
    return Folder(rirs[rows].astype(np.float32), positions[rows], room)


def shared_folders(shared: Path | None) -> list[Path]:
    if shared is None:
        return []
    return [one for kind in ("r3vival", "measured", "haa-reconstruction") for one in sorted((shared / kind).iterdir())]


def with_box(room: Folder) -> bool:
    """Whether a fault that needs a box can be put into a room: positions mirrored about the receiver stay inside."""
    if "room_size" not in room.room:
        return False
    mirrored = (room.positions - room.receiver) * [1, -1, 1] + room.receiver
    off_centre = abs(room.receiver[1] - room.room["room_size"][1] / 2)
    return bool((mirrored[:, 1] > 0).all() and (mirrored[:, 1] < room.room["room_size"][1]).all() and off_centre > 0.1)


def as_box(index: int) -> Folder:
    """A simulated shoebox measured where its receiver leaves room to mirror all positions."""
    import pyroomacoustics as pra

    rng = np.random.default_rng([SEED, index])
    size = rng.uniform([4.5, 4.0, 2.5], [9.0, 7.0, 3.4])
    receiver = size * [rng.uniform(0.2, 0.45), rng.uniform(0.36, 0.45), 0.45]
    reach = min(receiver[1], size[1] - receiver[1]) - 0.3
    low, high = np.array([0.4, receiver[1] - reach, 0.4]), np.array([size[0] - 0.4, receiver[1] + reach, size[2] - 0.6])
    positions = rng.uniform(low, high, (30, 3))
    room = pra.ShoeBox(size, fs=48_000, materials=pra.Material(rng.uniform(0.15, 0.4), 0.1), max_order=12)
    room.add_source(receiver)
    room.add_microphone_array(positions.T)
    room.compute_rir()
    lead = pra.constants.get("frac_delay_length") // 2
    rirs = np.zeros((30, 24_000), dtype=np.float32)
    for row, (rir,) in zip(rirs, room.rir, strict=True):
        kept = rir[lead : lead + 24_000]
        row[: len(kept)] = kept
    rirs += 1e-4 * np.abs(rirs).max() * rng.normal(size=rirs.shape).astype(np.float32)
    return Folder(
        rirs, positions, {"sample_rate": 48_000, "receiver_xyz": receiver.tolist(), "room_size": size.tolist()}
    )


def findings(room: Folder) -> list[tuple[str, str, str]]:
    """Severity, kind and text of all that is found in a room's folder; the reader's refusal is an error too."""
    with tempfile.TemporaryDirectory() as place:
        folder = room.write(Path(place) / "bench" / "base")
        try:
            return [(one.severity, one.kind, one.text) for one in check_room(load_room(folder))]
        except InputError as error:
            return [("refused", "reader", str(error).replace(str(folder), "ROOM"))]


def names(found: list[tuple[str, str, str]], wanted: str) -> bool:
    return any(re.fullmatch(wanted, kind) or (kind == "reader" and re.search(wanted, text)) for _, kind, text in found)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                    example="python recipes/check_faults.py --shared ../shared/data")  # fmt: skip
    parser.add_argument("--shared", type=Path, metavar="FOLDER", help="of measured and reconstructed rooms")
    parser.add_argument("--each", type=int, default=6, help="folders of each fault (default: 6)")
    parser.add_argument("--sound", type=int, default=100, help="sound rooms (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of rooms and faults; 0 was looked at in making the checks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with command():
        check_report(args.json, "check-faults")
        run(args)


def run(args: argparse.Namespace) -> None:
    chosen = MEASURED if args.seed == 0 else OTHER_MEASURED
    measured = [read(one, 30) for one in shared_folders(args.shared) if one.name in chosen]
    rows, missed, hits, total = [["fault", "folders", "found and named", "found as"]], [], 0, 0
    for number, (name, (fault, kind)) in enumerate(FAULTS.items()):
        found_as: dict[str, int] = {}
        good = 0
        for turn in range(args.each):
            rng = np.random.default_rng([args.seed, number, turn])
            if name in NEEDS_BOX:
                room = as_box(1000 * args.seed + turn)
            else:
                room = (
                    measured[number % len(measured)]
                    if measured and turn == 0
                    else simulated(20 * args.seed + (number * 3 + turn) % 20)
                )
            found = findings(fault(room, rng))
            ok = names(found, kind)
            good += ok
            key = kind if ok else ", ".join(dict.fromkeys(f"{one[1]}" for one in found)) or "nothing"
            found_as[key] = found_as.get(key, 0) + 1
            if not ok:
                missed.append({"fault": name, "turn": turn, "found": found})
        hits, total = hits + good, total + args.each
        rows.append([name, str(args.each), str(good), ", ".join(f"{key} {n}" for key, n in found_as.items())])
        print(rows[-1], flush=True)
    folders = shared_folders(args.shared)[: args.sound]
    boxes = min(10, args.sound - len(folders))
    accused, notes = [], {}
    for index in range(args.sound):
        if index < len(folders):
            name, room = "/".join(folders[index].parts[-2:]), read(folders[index])
        elif index < len(folders) + boxes:
            name, room = f"box {index}", as_box(1000 * args.seed + 100 + index)
        else:
            number = 100 * args.seed + index - len(folders) - boxes
            name, room = f"simulated/{SEED}-{number}", simulated(number)
        found = findings(room)
        wrong = [one for one in found if one[0] != "note" or one[1] not in TRUE_NOTES]
        for one in found:
            notes[one[1]] = notes.get(one[1], 0) + (one[0] == "note")
        if wrong:
            accused.append({"room": name, "found": wrong})
            print("accused", name, wrong, flush=True)
    print(markdown(rows))
    print(
        f"\n{hits} of {total} faults found and named; {len(accused)} of {args.sound} sound rooms accused; "
        f"notes on these: {notes}"
    )
    if args.json is not None:
        report = {
            "found": hits,
            "faults": total,
            "accused": accused,
            "sound": args.sound,
            "missed": missed,
            "table": rows[1:],
        }
        print(write_report(args.json, "check-faults", {**report, "notes": notes}))


if __name__ == "__main__":
    main()
