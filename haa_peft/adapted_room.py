"""What adapting a room gives: the adapter, how it compares, and its pack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from haa_peft.adapters.combine import Stored, stack
from haa_peft.evaluation.compare import Candidate, compare
from haa_peft.evaluation.evaluate import report_head
from haa_peft.evaluation.verdict import verdict
from haa_peft.inference.packs import prepare_pack
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.tensors import Levels
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.recordings import Recordings
from haa_peft.rooms.room import Room
from haa_peft.store.card import make_card
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName, store_folder
from haa_peft.store.pack import RoomPack
from haa_peft.training.loop import Adaptation, Start

LEVELS_ALONE = "levels alone"
"""Row of the backbone with fitted levels and no other adapter."""


@dataclass(frozen=True)
class AdaptedRoom:
    """What :func:`~haa_peft.main_job.adapt_room` gives.

    Attributes
    ----------
    name : of the adapter.
    room : what it was trained on, with what it borrowed.
    backbone : the adapter's, or what it and the adapter below are of.
    adaptation : the adapter, and how training went; ``first`` is the same of a first stage.
    levels : what predictions are given; None where the method has none.
    recordings : whether the pack keeps the measurements at their own rate and length.
    below : the adapter that it lies on top of.
    report : errors of baselines, backbone and adapter, with the ``verdict``
        (:func:`~haa_peft.evaluation.compare.compare`); no rows without a test.
    """

    name: AdapterName
    room: Room
    backbone: XRIR
    adaptation: Adaptation
    report: dict[str, Any]
    levels: Levels | None = None
    below: Start | None = None
    first: Adaptation | None = None
    recordings: bool = True

    @property
    def parent(self) -> tuple[str, str] | None:
        """Name and digest of the stored adapter below."""
        return (self.below.name, self.below.pack_digest) if self.below is not None and self.below.pack_digest else None

    @property
    def adapter(self) -> Stored:
        """Configuration and tensors of the backbone's adapter, what it lies on top of merged in."""
        own = self.adaptation.config, self.adaptation.tensors
        return own if self.below is None else stack(self.backbone, (self.below.config, self.below.tensors), own)

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the pack says of itself."""
        dropped = ("per_position", "iso", "iso_defined")
        rows = [{k: v for k, v in row.items() if k not in dropped} for row in self.report["rows"]]
        evaluation = {k: v for k, v in self.report.items() if k != "position_indices"} | {"rows": rows}
        backbone = {"origin": self.backbone.origin, "fingerprint": fingerprint(self.backbone)}
        return make_card(self.adaptation, self.room, backbone, evaluation if rows else None, parent=self.parent,
                         first=self.first, levels=self.levels)  # fmt: skip

    @cached_property
    def pack(self) -> RoomPack:
        """Ready to be written: adapter, references, geometry and card, with the room encoded."""
        own = self.adaptation.config, self.adaptation.tensors
        levels = [] if self.levels is None else [single.tensors() for single in self.levels.at_receivers]
        found = [Recordings.of_room(single) for single in self.room.at_receivers] if self.recordings else []
        recordings = [one for one in found if one is not None]
        recordings = recordings if len(recordings) == len(found) else []
        stored = own if self.parent else self.adapter
        pack = RoomPack.of_room(self.name, self.room, *stored, self.card, levels, recordings)
        if self.parent is None or self.below is None:
            return prepare_pack(self.backbone, pack)
        below = pack.with_adapter(self.below.config, self.below.tensors)
        return prepare_pack(self.backbone, pack, below)

    def write(self, store: Path | str | None = None) -> Path:
        """Write the pack to a store (``$HAA_PEFT_STORE`` or ``./adapters`` unless given); its folder."""
        return write_pack(store_folder(store), self.pack)


def compare_adapted(
    room: Room,
    base: XRIR,
    adaptation: Adaptation,
    name: str,
    split: str | None,
    levels: Levels | None = None,
    below: Start | None = None,
) -> dict[str, Any]:
    """Report of baselines, backbone and an adapter of ``base``, with a verdict; without rows if nothing is tested.

    Parameters
    ----------
    room : with training measurements, the references.
    base : the backbone, with ``below`` merged into it.
    adaptation, name : the adapter, and what it is called.
    split : whose positions are predicted; None for no test.
    levels : that its predictions are given; those of the backbone are compared with and without.
    below : the adapter that is merged into ``base``.
    """
    k, seed = adaptation.training.k, adaptation.training.seed
    if split is None or not room.count(split):
        return report_head(room, split or "test", k, seed)
    unchanged = adaptation.unchanged and levels is None
    facts = {
        "trainable_parameters": adaptation.trainable_parameters,
        "bytes": adaptation.adapter_bytes + (0 if levels is None else levels.bytes),
        "seconds": round(adaptation.seconds, 1),
        "unchanged": unchanged,
    }
    alone = {} if levels is None else {LEVELS_ALONE: Candidate(None, {}, {"bytes": levels.bytes}, levels)}
    adapted = Candidate(adaptation.config, adaptation.tensors, facts, levels)
    report = compare(room, base, {**alone, name: adapted}, k, seed, split)
    began = adaptation.started_from or (below.name if below else "the backbone")
    return {**report, "verdict": verdict(report, name, began if unchanged else None)}
