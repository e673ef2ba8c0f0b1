"""A corpus of simulated rooms on disk: Arrow shards of `datasets`, made in parallel, resumable, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.acoustics.spectrogram import RIR_LENGTH
from haa_peft.commands.outputs import check_writable
from haa_peft.commands.workers import check_workers, work_on
from haa_peft.errors import InputError
from haa_peft.files import write_atomically
from haa_peft.geometry.panorama import panorama_from_depth, render_panorama
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.simulation.draw import OCTAVE_BANDS, SOURCES_PER_ROOM, DrawnRoom, draw_room
from haa_peft.simulation.simulate import simulate

ROOMS_PER_SHARD = 25
FORMAT = 3
"""Of what is drawn, how it is simulated and stored; a folder holds one format."""


@dataclass(frozen=True)
class CorpusRoom:
    """One simulated room: ``rirs`` (P, 9600) at 22 050 Hz, ``positions`` (P, 3) and ``receiver`` (3,) m.

    Its geometry is ``surfaces`` or, where a data set has no surfaces, a ``depth`` map (256, 512) m.
    """

    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    surfaces: Surfaces | None = None
    depth: np.ndarray | None = None

    def panorama(self) -> np.ndarray:
        """Coordinates in metres, from the receiver, of what each pixel sees: (3, 256, 512) float32."""
        if self.depth is not None:
            return panorama_from_depth(self.depth)
        assert self.surfaces is not None
        return render_panorama(self.surfaces, self.receiver)


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"rooms-{shard:05d}.arrow"


def features() -> Any:
    """Columns of a corpus: one row a room, RIRs in half precision relative to the room's largest magnitude."""
    from datasets import Array2D, Array3D, Features, Sequence, Value

    return Features(
        {
            "index": Value("int64"),
            "rirs": Array2D((SOURCES_PER_ROOM, RIR_LENGTH), "float16"),
            "positions": Array2D((SOURCES_PER_ROOM, 3), "float32"),
            "receiver": Sequence(Value("float32"), 3),
            "surfaces": Array3D((None, 3, 3), "float32"),
            "is_triangle": Sequence(Value("bool")),
            "plan": Value("string"),
            "volume": Value("float32"),
            "t60": Value("float32"),
            "absorption": Sequence(Value("float32"), len(OCTAVE_BANDS)),
            "directional": Value("bool"),
            "obstacles": Value("int32"),
        }
    )


def row_of(index: int, room: DrawnRoom, rirs: np.ndarray) -> dict[str, Any]:
    """A simulated room with RIRs (P, 9600) as a row of the corpus; ``absorption`` is the walls' mean by area."""
    surfaces = room.surfaces
    areas = [wall.area for wall in room.walls]
    return {
        "index": index,
        "rirs": (rirs / np.abs(rirs).max()).astype(np.float16),
        "positions": room.positions.astype(np.float32),
        "receiver": room.receiver.astype(np.float32),
        "surfaces": surfaces.points.astype(np.float32),
        "is_triangle": surfaces.is_triangle,
        "plan": room.plan,
        "volume": room.volume,
        "t60": room.t60,
        "absorption": np.average([wall.absorption for wall in room.walls], axis=0, weights=areas).astype(np.float32),
        "directional": room.facing is not None,
        "obstacles": len(room.obstacles) // 6,
    }


def write_shard(folder: Path, seed: int, odd: bool, shard: int) -> Path:
    """Simulate one shard of rooms of :func:`simulate_corpus` and write it beside its target, then rename.

    Parameters
    ----------
    folder, shard : the corpus, and the number of the shard in it.
    seed, odd : of the rooms, as :func:`~haa_peft.simulation.draw.draw_room` takes them.

    Raises
    ------
    InputError
        When the folder is not there.
    """
    from datasets.arrow_writer import ArrowWriter

    path = shard_path(folder, shard)
    if not folder.is_dir():
        raise InputError(f"{folder} is not on {platform.node()}; give one that all machines of a cluster see")
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with ArrowWriter(path=temporary, features=features()) as writer:
            for index in range(shard * ROOMS_PER_SHARD, (shard + 1) * ROOMS_PER_SHARD):
                room = draw_room(seed, index, odd=odd)
                writer.write(row_of(index, room, simulate(room, (seed, index))))
            writer.finalize()
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _write(corpus: tuple[Path, int, bool], shard: int, device: str | None) -> None:
    write_shard(*corpus, shard)


def simulate_corpus(
    folder: Path, n_rooms: int, seed: int, workers: int | None = None, *, odd: bool = False, executor: str = "local"
) -> None:
    """Make the shards of a corpus that are missing; deterministic per room, so a killed run goes on.

    Parameters
    ----------
    folder : where ``rooms-*.arrow`` and ``corpus.json`` go.
    n_rooms : at least this many rooms, rounded up to whole shards of 25.
    seed : the corpus' seed; a folder holds one seed only.
    executor, workers : this machine or a Ray cluster, and shards at once, as
        :func:`~haa_peft.commands.workers.work_on` takes them; the machines of a cluster must share the folder.
    odd : rooms outside the distribution that is trained on (:func:`~haa_peft.simulation.draw.draw_room`).

    Raises
    ------
    InputError
        When a number is too small, or the folder holds another corpus or cannot be written.
    """
    from tqdm import tqdm

    for flag, value, least in (("--count", n_rooms, 1), ("--seed", seed, 0)):
        if value < least:
            raise InputError(f"{flag} is {value} but must be at least {least}")
    check_workers(executor, workers)
    check_writable(folder / "corpus.json")
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "corpus.json"
    facts = {
        "format": FORMAT,
        "seed": seed,
        "odd": odd,
        "rooms_per_shard": ROOMS_PER_SHARD,
        "sources_per_room": SOURCES_PER_ROOM,
    }
    if description.exists() and description.read_text() != json.dumps(facts):
        raise InputError(f"{folder} holds another corpus ({description.read_text():.80}); give an empty folder")
    write_atomically(description, json.dumps(facts).encode())
    n_shards = -(-n_rooms // ROOMS_PER_SHARD)
    missing = [s for s in range(n_shards) if not shard_path(folder, s).exists()]
    if not missing:
        return
    done = (n_shards - len(missing)) * ROOMS_PER_SHARD
    with tqdm(total=n_shards * ROOMS_PER_SHARD, initial=done, unit="room", desc="simulating") as bar:
        corpus = (folder.resolve(), seed, odd)
        found = work_on(_write, corpus, missing, executor=executor, workers=workers, on_gpus=False)
        for number, problem in found:
            if problem is not None:
                raise InputError(f"shard {missing[number]}: {problem}; the same command goes on with what is missing")
            bar.update(ROOMS_PER_SHARD)


def about_corpus(folder: Path) -> dict[str, Any]:
    """What ``corpus.json`` says: ``format``, ``seed``, ``odd``, ``rooms_per_shard``, ``sources_per_room``.

    Raises ``InputError`` where it is not there.
    """
    path = folder / "corpus.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {key: about[key] for key in ("format", "seed", "odd", "rooms_per_shard", "sources_per_room")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: missing or damaged; `haa-peft pretrain simulate` writes it") from None


class Corpus:
    """Simulated rooms, memory-mapped: ``corpus[i]`` is a :class:`CorpusRoom`, ``rows`` the `datasets.Dataset`."""

    def __init__(self, folder: Path, n_rooms: int | None = None) -> None:
        """Open the shards that are there, in order, at most ``n_rooms`` rooms."""
        from datasets import Dataset, concatenate_datasets

        paths = sorted(folder.glob("rooms-*.arrow"))
        if n_rooms is not None:
            paths = paths[: -(-n_rooms // ROOMS_PER_SHARD)]
        self._folder, self._paths = folder, paths
        if not paths:
            raise InputError(
                f"{folder} holds no rooms-*.arrow; make some with `haa-peft pretrain simulate --out {folder}`"
            )
        try:
            rows = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
        except Exception as error:  # whatever a damaged file makes of its reader
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: cannot be read as a corpus ({reason:.120}); simulate it again") from None
        self.rows = rows.select(range(min(len(rows), n_rooms or len(rows)))).with_format("numpy")
        self._parts = self.rows.select_columns(["rirs", "positions", "receiver", "surfaces", "is_triangle"])

    def __len__(self) -> int:
        return len(self.rows)

    def about(self) -> dict[str, Any]:
        """See :func:`about_corpus`."""
        return about_corpus(self._folder)

    def fingerprint(self) -> str:
        """SHA-256 of the content of the shards that hold its rooms."""
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def __getitem__(self, index: int) -> CorpusRoom:
        row = self._parts[int(index)]
        surfaces = Surfaces(np.array(row["surfaces"], dtype=np.float64), np.array(row["is_triangle"], dtype=bool))
        return CorpusRoom(row["rirs"], row["positions"], row["receiver"], surfaces)
