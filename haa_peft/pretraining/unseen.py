"""A backbone in rooms that it has not seen: every room's positions from K others drawn at random, as published."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from haa_peft.commands.tables import COLUMNS, figure, markdown
from haa_peft.errors import InputError, check_seed
from haa_peft.evaluation.baselines import interpolations
from haa_peft.evaluation.evaluate import Metrics, errors, means
from haa_peft.model.predict import rirs_of
from haa_peft.model.tensors import RoomTensors, Targets
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.acoustic_rooms import AcousticRooms
from haa_peft.simulation.corpus import Corpus, CorpusRoom
from haa_peft.simulation.draw import SOURCES_PER_ROOM

TARGETS = 4
"""Positions predicted in each room."""


def evaluate_corpora(
    backbone: XRIR,
    corpora: Sequence[Path],
    trained_on: Collection[int],
    count: int | None,
    ks: Sequence[int],
    phase: str,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """A report for each corpus.

    Parameters
    ----------
    backbone, corpora, trained_on, count, ks, phase, seed : as :func:`haa_peft.pretraining.evaluate_backbone` takes
        them.

    Raises
    ------
    InputError
        When a folder holds no rooms, or rooms that it was trained on, or a number is out of range.
    """
    for k in ks:
        if not 1 <= k < SOURCES_PER_ROOM:
            raise InputError(f"--k is {k} but must be from 1 to {SOURCES_PER_ROOM - 1}")
    if count is not None and count < 1:
        raise InputError(f"--count is {count} but must be at least 1")
    check_seed(seed)
    for rooms, about in [open_unseen(folder, trained_on) for folder in corpora]:
        some = min(len(rooms), count or len(rooms))
        spread = np.linspace(0, len(rooms) - 1, some).round().astype(int).tolist()
        numbered = ((i, rooms[i]) for i in tqdm(spread, desc=f"{about['corpus']} {about['unit']}"))
        rows = evaluate_unseen(
            backbone, numbered, lambda _, room: torch.from_numpy(room.panorama()), ks=ks, phase=phase, seed=seed
        )
        yield {**about, about["unit"]: some, "rows": rows}


@torch.no_grad()
def predict_unseen(
    backbone: XRIR,
    room: CorpusRoom,
    panorama: Tensor,
    targets: np.ndarray,
    references: np.ndarray,
    ks: Sequence[int],
    phase: str,
    seed: int,
) -> dict[tuple[int, str], np.ndarray]:
    """RIRs (N, 9600) of the baselines and the backbone, for each K.

    Parameters
    ----------
    backbone : with no adapter attached.
    room : one that it was not trained in.
    panorama : (3, h, w) m, as rendered or pooled.
    targets, references : (N,) and (N, largest K) indices of positions.
    ks : the numbers of references; the first K of them are used.
    phase, seed : of the waveforms (:func:`~haa_peft.model.predict.waveforms`).
    """
    positions, rirs = room.positions - room.receiver, room.rirs.astype(np.float32)
    device = backbone.device
    tensors = RoomTensors(panorama, torch.from_numpy(rirs), torch.from_numpy(positions))
    (encoded,) = backbone.encode([tensors.to(device)])
    found = {}
    for k in ks:
        distance = np.linalg.norm(positions[references[:, :k]] - positions[targets][:, None], axis=-1)
        chosen = np.take_along_axis(references[:, :k], distance.argsort(axis=1), axis=1)
        for name, heard in interpolations(rirs, positions, chosen, positions[targets], seed, phase).items():
            found[k, name] = heard
        asked = [(encoded, Targets(encoded.positions[targets], torch.from_numpy(chosen).to(device)))]
        found[k, "backbone"] = rirs_of(backbone, asked, seed, phase)
    return found


def evaluate_unseen(
    backbone: XRIR,
    rooms: Iterable[tuple[int, CorpusRoom]],
    panorama_of: Callable[[int, CorpusRoom], Tensor],
    *,
    ks: Sequence[int] = (1, 4, 8),
    phase: str = "references",
    seed: int = 0,
    iso: bool = True,
) -> list[dict[str, Any]]:
    """Mean errors over four positions of each of some rooms, a row for each K and predictor.

    Parameters
    ----------
    backbone : with no adapter attached.
    rooms : (number, room) pairs; number and ``seed`` decide which positions are targets and which references.
    panorama_of : gives a room's panorama, (3, h, w) m.
    ks : numbers of references.
    phase, seed : of the waveforms (:func:`~haa_peft.model.predict.waveforms`).
    iso : whether to compute the ISO 3382-1 errors too, which takes longer.

    Returns
    -------
    Rows as in a report of :func:`~haa_peft.evaluation.evaluate.evaluate`, with ``k``, ``positions`` and, under
    ``of_nearest``, the errors divided by those of the nearest neighbour among the same references.
    """
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for number, room in rooms:
        targets, references = draw_unseen((seed, number), len(room.positions), max(ks))
        true = Metrics.of(room.rirs[targets].astype(np.float32), iso=iso)
        panorama = panorama_of(number, room)
        for key, rirs in predict_unseen(backbone, room, panorama, targets, references, ks, phase, seed).items():
            found.setdefault(key, []).append(errors(Metrics.of(rirs, iso=iso), true))
    rows: list[dict[str, Any]] = []
    for (k, name), parts in found.items():
        together = join(parts)
        row: dict[str, Any] = {"k": k, "predictor": name, "positions": len(together["edt_s"]), **means(together)}
        nearest = row if name == "nearest" else next(r for r in rows if (r["k"], r["predictor"]) == (k, "nearest"))
        row["of_nearest"] = {key: row[key] / nearest[key] for _, key, *_ in COLUMNS}
        rows.append(row)
    return rows


def draw_unseen(seed: tuple[int, ...], sources: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N,), and for each the others in random order as references, (N, ``most``).

    Raises
    ------
    InputError
        When ``sources``, the positions of the room, are no more than ``most``.
    """
    if sources <= most:
        raise InputError(f"--k is {most} but a room has only {sources} positions; give at most {sources - 1}")
    rng = np.random.default_rng(seed)
    targets = rng.permutation(sources)[:TARGETS]
    others = [rng.permutation(np.setdiff1d(np.arange(sources), [target]))[:most] for target in targets]
    return targets, np.stack(others)


def join(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Errors of several rooms, one after the other."""
    first = parts[0]
    return {
        key: join([part[key] for part in parts])
        if isinstance(first[key], dict)
        else np.concatenate([p[key] for p in parts])
        for key in first
    }


def open_unseen(folder: Path, trained_on: Collection[int]) -> tuple[Corpus | AcousticRooms, dict[str, Any]]:
    """Rooms that a backbone has not seen, and what they are: a simulated corpus, or AcousticRooms' unseen rooms.

    ``trained_on`` are :func:`~haa_peft.pretraining.weights.seeds_seen`; a corpus of the same seed holds the same rooms,
    which is an ``InputError``.
    """
    if (folder / "single_channel_ir").is_dir():
        return AcousticRooms(folder, "test"), {"corpus": "AcousticRooms", "split": "test", "unit": "receivers"}
    corpus = Corpus(folder)
    about = corpus.about()
    if not about["odd"] and about["seed"] in trained_on:
        raise InputError(
            f"{folder} holds rooms of seed {about['seed']}, which the backbone was pretrained on; "
            "simulate others with another --seed"
        )
    return corpus, {
        "corpus": "odd" if about["odd"] else "simulated",
        "unit": "rooms",
        **about,
        "sha256": corpus.fingerprint(),
    }


def unseen_table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean absolute errors, and in brackets those divided by nearest neighbour's, as a Markdown table."""
    cells = [["K", "predictor", *(title for title, *_ in COLUMNS), "ISO EDT %", "ISO C50 dB"]]
    for row in rows:
        broadband = row["iso"]["broadband"]
        iso = [figure(broadband["edt_percent"]), figure(broadband["c50_db"], 1, 2)]
        shown = [
            f"{figure(row[key], factor, digits)} ({figure(row['of_nearest'][key], 1, 2)})"
            for _, key, factor, digits in COLUMNS
        ]
        cells.append([str(row["k"]), row["predictor"], *shown, *iso])
    return markdown(cells)
