"""Finding the stored adapter that fits a room which was just measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from haa_peft.errors import InputError
from haa_peft.inference.packs import attach_pack, load_pack
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.store.names import list_names
from haa_peft.store.pack import RoomPack
from haa_peft.tables import markdown
from haa_peft.training.objective import RoomObjective, check_k
from haa_peft.training.settings import TrainingSettings

BARE = "(none)"
"""Stands for the backbone without an adapter."""


class Fit(NamedTuple):
    """How well an adapter predicts measurements from each other: the mean training loss, lower is better.

    One that was trained in this very configuration may have seen these measurements, which then flatter it.
    """

    adapter: str
    loss: float
    trained_here: bool = False


def identify(room: Room, backbone: XRIR, store: Path, k: int | None = None) -> tuple[list[Fit], list[str]]:
    """Rank the adapters of a store, and the bare backbone, on a room's training measurements.

    Each measurement is predicted from its K nearest others by the backbone with each adapter; what an adapter keeps as
    references is not used.

    Parameters
    ----------
    room : with at least two training measurements.
    backbone : with no adapter attached.
    store : folder of adapters.
    k : nearest others; as in training unless given, or all if there are fewer.

    Returns
    -------
    The fits, best first, and what was left out, with the reason.

    Raises
    ------
    InputError
        When the store has no adapter of this backbone, or there are fewer than K + 1 measurements.
    """
    shots = len(room.splits["train"])
    k = min(TrainingSettings().k, max(1, shots - 1)) if k is None else k
    check_k(k, shots, room.name)
    fits, left_out = [Fit(BARE, _loss(backbone, room, k))], []
    for name in list_names(store):
        try:
            pack = load_pack(store, name, backbone)
            trained_here = pack.card["room"]["name"] == room.name
            fits.append(Fit(str(name), _loss(backbone, room.with_channels(pack.channels), k, pack), trained_here))
        except InputError as error:
            left_out.append(str(error))
    if len(fits) == 1:
        what = f"; {left_out[0]}" if left_out else ""
        raise InputError(f"store {store} has no adapter of the backbone {fingerprint(backbone)[:16]}{what}")
    return sorted(fits, key=lambda fit: fit.loss), left_out


def _loss(backbone: XRIR, room: Room, k: int, pack: RoomPack | None = None) -> float:
    adapter = None if pack is None else attach_pack(backbone, pack)
    try:
        objective = RoomObjective(backbone, room, audible_decay=TrainingSettings().audible_decay).eval()
        return float(objective.losses_at(np.arange(objective.shots), k).mean())
    finally:
        if adapter is not None:
            adapter.detach()


def fit_table(fits: list[Fit]) -> str:
    """The ranking as a Markdown table; percentages are of the bare backbone's loss."""
    bare = next(fit.loss for fit in fits if fit.adapter == BARE)
    rows = [["rank", "adapter", "loss", "of bare backbone's %", "trained in this configuration"]]
    for i, fit in enumerate(fits, start=1):
        share = f"{100 * fit.loss / bare:.1f}"
        rows.append([str(i), fit.adapter, f"{fit.loss:.4f}", share, "yes" if fit.trained_here else ""])
    return markdown(rows)
