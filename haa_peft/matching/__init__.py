"""Which stored adapter measurements of a room belong to, and whether they can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from haa_peft.adapters.methods import Adapter, attach_stored
from haa_peft.commands.tables import markdown
from haa_peft.errors import InputError
from haa_peft.inference.packs import check_backbone, levels_of, load_pack
from haa_peft.levels.cells import above_noise, cell_levels
from haa_peft.levels.fitting import folds, left_out_levels
from haa_peft.levels.room import RoomLevels
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.rooms.room import Room
from haa_peft.store.names import iterate_names
from haa_peft.store.pack import RoomPack
from haa_peft.training.objective import check_k
from haa_peft.training.settings import TrainingSettings

BARE = "(none)"
"""Stands for the backbone and levels that are fitted anew, without any stored adapter."""
CONFIDENCE = 0.95
FEWEST = 5
"""Measurements; the extremes of fewer are not a 95 % interval, whatever they are."""
HEARD = 0.25
"""Share of a measurement's spans and octaves that must be above the noise for it to count."""
RESAMPLES = 20_000


class Fit(NamedTuple):
    """How well an adapter tells levels of measurements from the others, and how far it is behind the best.

    Attributes
    ----------
    adapter : its name.
    error_db : mean absolute error of the levels, over measurements, spans and octaves above the noise.
    behind_db : how much more that is than the best adapter's; ``low`` to ``high`` its 95 % interval.
    first : share of the resamples of measurements in which no other adapter has a smaller error.
    trained_here : was trained in this very configuration, and may have seen these measurements, which then flatter it.
    """

    adapter: str
    error_db: float
    behind_db: float
    low: float
    high: float
    first: float
    trained_here: bool = False


@dataclass(frozen=True)
class Match:
    """What :func:`identify` gives.

    Attributes
    ----------
    fits : best first.
    measurements : how many of the room's were used.
    noise : share of their spans and octaves that lie in noise and do not count.
    left_out : adapters and measurements that were not used, with the reason.
    """

    fits: list[Fit]
    measurements: int
    noise: float
    left_out: list[str]

    @property
    def rivals(self) -> list[str]:
        """Adapters that the measurements cannot tell from the best."""
        others = self.fits[1:]
        return [fit.adapter for fit in others if self.measurements < FEWEST or not fit.low > 0]

    @property
    def line(self) -> str:
        """The answer, in a line for people."""
        best, count = self.fits[0], self.measurements
        if self.rivals:
            shown = ", ".join(self.rivals[:3]) + (f" and {len(self.rivals) - 3} more" if len(self.rivals) > 3 else "")
            few = f" ({FEWEST} are needed to tell anything)" if count < FEWEST else ""
            return f"cannot tell: {best.adapter} is best, but {count} measurements{few} do not tell it from {shown}"
        margin = self.fits[1]
        named = best.adapter if best.adapter != BARE else "none of the stored adapters"
        return (
            f"{named}: the next, {margin.adapter}, is {margin.behind_db:.2f} dB behind "
            f"({CONFIDENCE:.0%} interval {margin.low:.2f} to {margin.high:.2f} dB, {count} measurements)"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "fits": [fit._asdict() for fit in self.fits], "rivals": self.rivals, "line": self.line}


def identify(room: Room, backbone: XRIR, store: Path, k: int | None = None) -> Match:
    """Rank the adapters of a store, and none of them, by a room's own training measurements.

    Levels of each measurement in spans of time and octaves are told from the others: by the backbone with each adapter
    and, where a pack has them, by its fitted levels. What a pack keeps as references is not used, so the room may have
    other coordinates. Spans and octaves in which a measurement is noise do not count. Intervals are of the bootstrap
    over measurements, expanded for small numbers (Hesterberg, The American Statistician 69, 2015).

    Parameters
    ----------
    room : with at least two training measurements.
    backbone : with no adapter attached.
    store : folder of adapters.
    k : nearest others; as in training unless given, or all if there are fewer.

    Raises
    ------
    InputError
        When the store has no adapter of this backbone, there are fewer than K + 1 measurements, or all are noise.
    """
    shots = len(room.own)
    k = min(TrainingSettings().k, max(1, shots - 1)) if k is None else k
    check_k(k, shots, room.name)
    heard, left_out = _heard(room)
    errors = {BARE: _errors(backbone, room, k, heard)}
    trained_here = set()
    for name in iterate_names(store):
        try:
            pack = load_pack(store, name, backbone)
            errors[str(name)] = _errors(backbone, room.with_channels(pack.channels), k, heard, pack)
            trained_here |= {str(name)} if pack.card["room"]["name"] == room.name else set()
        except InputError as error:
            left_out.append(str(error))
    if len(errors) == 1:
        what = f"; {left_out[0]}" if left_out else ""
        raise InputError(f"store {store} has no adapter of the backbone {fingerprint(backbone)[:16]}{what}")
    counted = heard.any(axis=(1, 2))
    fits = [fit._replace(trained_here=fit.adapter in trained_here) for fit in rank(errors)]
    return Match(fits, int(counted.sum()), float(1 - heard[counted].mean()), left_out)


def _heard(room: Room) -> tuple[np.ndarray, list[str]]:
    """Which spans and octaves of the room's own measurements count, (R, 8, 7) bool, and which measurements do not."""
    distance = np.linalg.norm(room.positions[room.own] - room.receiver, axis=1)
    heard = above_noise(room.rirs[room.own], distance)
    lost = heard.mean(axis=(1, 2)) < HEARD
    heard[lost] = False
    if lost.all():
        raise InputError(f"{room.name}: its measurements are noise, which belongs to no room; measure again, louder")
    return heard, [f"measurement {room.own[row]}: noise in most spans and octaves" for row in np.flatnonzero(lost)]


def _errors(backbone: XRIR, room: Room, k: int, heard: np.ndarray, pack: RoomPack | None = None) -> np.ndarray:
    """Mean absolute errors in dB of the levels of each measurement that counts, (C,), told from the others.

    Parameters
    ----------
    backbone, room, k : as for :func:`identify`.
    heard : (R, 8, 7) bool, what counts.
    pack : whose adapter and levels are used; without it, levels are fitted to the others.
    """
    rirs, positions = room.rirs[room.own], room.positions[room.own] - room.receiver
    left_out = folds(positions)
    adapter = None if pack is None else attach_pack(backbone, pack)
    try:
        told = left_out_levels(backbone, room, k, left_out)
    finally:
        if adapter is not None:
            adapter.detach()
    levels = None if pack is None else levels_of(pack, room.without_borrowed())
    for out in left_out:
        if pack is None:
            own = RoomLevels.fit(rirs[~out], positions[~out], room.receiver, room.geometry, told[~out], [])
            told[out] = own.weighted(*own.candidates(positions[out]), told[out])
        elif levels is not None:
            told[out] = levels.weighted(*levels.candidates(positions[out], out), told[out])
    wrong = np.abs(told - cell_levels(rirs, np.linalg.norm(positions, axis=1)))
    counted = heard.any(axis=(1, 2))
    return np.asarray((wrong * heard).sum(axis=(1, 2))[counted] / heard.sum(axis=(1, 2))[counted])


def rank(errors: dict[str, np.ndarray]) -> list[Fit]:
    """Adapters by their mean errors (C,) dB at the same measurements, best first."""
    names = sorted(errors, key=lambda name: float(errors[name].mean()))
    table = np.stack([errors[name] for name in names])
    count = table.shape[1]
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    means = weights @ table.T
    first = (means <= means.min(axis=1, keepdims=True) + 1e-12).mean(axis=0)
    wide = np.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 + CONFIDENCE) / 2) if count > 1 else np.inf
    level = float(ndtr(-wide))
    behind = np.quantile(means - means[:, :1], [level, 1 - level], axis=0)
    mean = table.mean(axis=1)
    columns = np.stack([mean, mean - mean[0], *behind, first], axis=1)
    return [Fit(name, *row) for name, row in zip(names, columns.tolist(), strict=True)]


def fit_table(match: Match) -> str:
    """The ranking as a Markdown table."""
    rows = [["rank", "adapter", "level error dB", "behind dB", "95 % interval", "first in", "trained here"]]
    for i, fit in enumerate(match.fits, start=1):
        behind, interval = ("", "") if i == 1 else (f"{fit.behind_db:.2f}", f"{fit.low:.2f} to {fit.high:.2f}")
        rows.append([str(i), fit.adapter, f"{fit.error_db:.2f}", behind, interval, f"{fit.first:.0%}",
                     "yes" if fit.trained_here else ""])  # fmt: skip
    return markdown(rows)


def attach_pack(backbone: XRIR, pack: RoomPack) -> Adapter:
    """Put a pack's adapter, as :func:`load_pack` gives it, on its backbone; raises ``InputError`` for any other."""
    check_backbone(pack, fingerprint(backbone), backbone.origin)
    try:
        return attach_stored(backbone, pack.config, pack.tensors)
    except InputError as error:
        raise InputError(f"{pack.name}: {error}") from None
