"""A corpus of simulated rooms on disk: shards of safetensors, made in parallel, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from haa_peft.errors import InputError
from haa_peft.files import check_writable, write_atomically
from haa_peft.rooms.simulation import SOURCES_PER_ROOM, draw_room, simulate

ROOMS_PER_SHARD = 25


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / f"rooms-{shard:05d}.safetensors"


def write_shard(folder: Path, seed: int, shard: int) -> Path:
    """Simulate one shard of rooms and write it beside its target, then rename."""
    from safetensors.numpy import save

    indices = range(shard * ROOMS_PER_SHARD, (shard + 1) * ROOMS_PER_SHARD)
    rooms = [draw_room(seed, index) for index in indices]
    rirs = np.stack([simulate(room, index) for room, index in zip(rooms, indices, strict=True)])
    path = shard_path(folder, shard)
    content = save(
        {
            "rirs": (rirs / np.abs(rirs).max(axis=(1, 2), keepdims=True)).astype(np.float16),
            "positions": np.stack([room.positions for room in rooms]).astype(np.float32),
            "receiver": np.stack([room.receiver for room in rooms]).astype(np.float32),
            "size": np.stack([room.size for room in rooms]).astype(np.float32),
        },
        metadata={"seed": str(seed), "first_room": str(indices[0])},
    )
    write_atomically(path, content)
    return path


def simulate_corpus(folder: Path, n_rooms: int, seed: int, workers: int | None = None) -> None:
    """Make the shards of a corpus that are missing; deterministic per room, so a killed run goes on.

    Parameters
    ----------
    folder : where ``rooms-*.safetensors`` and ``corpus.json`` go.
    n_rooms : at least this many rooms, rounded up to whole shards of 25.
    seed : the corpus' seed; a folder holds one seed only.
    workers : processes, all cores unless given.
    """
    from tqdm import tqdm

    for flag, value, least in (("--rooms", n_rooms, 1), ("--seed", seed, 0), ("--workers", workers or 1, 1)):
        if value < least:
            raise InputError(f"{flag} is {value} but must be at least {least}")
    check_writable(folder / "corpus.json")
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "corpus.json"
    facts = {"seed": seed, "rooms_per_shard": ROOMS_PER_SHARD, "sources_per_room": SOURCES_PER_ROOM}
    if description.exists() and description.read_text() != json.dumps(facts):
        raise InputError(f"{folder} holds another corpus ({description.read_text():.80}); give an empty folder")
    write_atomically(description, json.dumps(facts).encode())
    n_shards = -(-n_rooms // ROOMS_PER_SHARD)
    missing = [s for s in range(n_shards) if not shard_path(folder, s).exists()]
    # an interruption goes to this process alone, and leaving the block ends the workers at once
    with (
        multiprocessing.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool,
        tqdm(total=n_shards, initial=n_shards - len(missing), unit="shard", desc="simulating rooms") as bar,
    ):
        for _ in pool.imap_unordered(partial(write_shard, folder, seed), missing):
            bar.update()


def corpus_fingerprint(folder: Path, n_rooms: int) -> str:
    """SHA-256 of the content of the shards that hold the first ``n_rooms`` rooms."""
    digest = hashlib.sha256()
    for shard in range(-(-n_rooms // ROOMS_PER_SHARD)):
        digest.update(shard_path(folder, shard).read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Corpus:
    """R rooms in memory: ``rirs`` (R, P, 9600) float16, ``positions`` (R, P, 3), ``receiver`` and ``size`` (R, 3)."""

    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.rirs)

    @classmethod
    def load(cls, folder: Path, n_rooms: int | None = None) -> Corpus:
        """Read the shards that are there, in order, at most ``n_rooms`` rooms."""
        from safetensors.numpy import load_file

        paths = sorted(folder.glob("rooms-*.safetensors"))
        if n_rooms is not None:
            paths = paths[: -(-n_rooms // ROOMS_PER_SHARD)]
        if not paths:
            raise InputError(
                f"{folder} holds no rooms-*.safetensors; make some with `haa-peft simulate --out {folder}`"
            )
        shards = [load_file(path) for path in paths]
        fields = {key: np.concatenate([s[key] for s in shards])[:n_rooms] for key in shards[0]}
        return cls(**fields)
