"""Which point stays fixed: the receiver of a room folder, with the positions that move around it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from haa_peft.errors import InputError
from haa_peft.importing.measured import Measurements
from haa_peft.importing.wanted import ALL, Wanted

SAME = 1e-3
"""Metres; points that are closer are one."""
NEAR = 0.02
"""Metres that a stated receiver may be from the one that is meant."""
SHOWN = 4


@dataclass(frozen=True)
class Fixed:
    """One receiver of a room folder: RIRs (N, T), positions (N, 3) m and the point (3,) m that stays fixed.

    ``what`` is that point's kind.
    """

    rirs: np.ndarray
    positions: np.ndarray
    receiver: np.ndarray
    what: str
    said: tuple[str, ...]


def fixed_points(measured: Measurements, wanted: Wanted) -> list[Fixed]:
    """The receivers of the room folder, one unless all are wanted.

    Where sound came from one place and was heard at many, that place is the receiver, by reciprocity.

    Raises
    ------
    InputError
        When channel or view must be chosen, does not exist, or no position varies.
    """
    measured = _of_channel(_of_view(measured, wanted), wanted)
    heard, ears = _distinct(measured.receivers)
    sent, mouths = _distinct(measured.sources)
    if len(ears) == 1 and len(mouths) == 1:
        raise InputError(
            "all RIRs have the same source and the same receiver position; a room needs positions that vary"
        )
    if wanted.receivers and wanted.channel is None and len(wanted.receivers) == 1:
        which, points = _stated(np.array(wanted.receivers[0]), ears, mouths)
        chosen = [which]
    elif len(ears) == 1 or (wanted.channel == ALL and len(mouths) > 1):
        points, chosen = "receiver", list(range(len(ears)))
    elif len(mouths) == 1:
        points, chosen = "source", [0]
    else:
        channels = len(np.unique(measured.channels))
        ways = f"--channel 1 to {channels}, " if channels > 1 else ""
        some = _listed(ears if len(ears) <= len(mouths) else mouths)
        raise InputError(
            f"{len(mouths)} source positions and {len(ears)} receiver positions vary; take all receivers (--channel "
            f"all), or choose the point that stays fixed: {ways}--receiver X Y Z, such as {some}"
        )
    own, moving, places = (
        (heard, measured.sources, ears) if points == "receiver" else (sent, measured.receivers, mouths)
    )
    return [_fixed(measured, own == i, moving, places[i], points) for i in chosen]


def _fixed(measured: Measurements, rows: np.ndarray, moving: np.ndarray, point: np.ndarray, what: str) -> Fixed:
    rirs, positions = measured.rirs[rows], moving[rows]
    which, points = _distinct(positions)
    first = np.array([int((which == i).argmax()) for i in range(len(points))])
    first.sort()
    said = [
        f"{what} at {_at(point)} stays fixed; {len(first)} positions vary"
        + (" (reciprocity: they are the microphones)" if what == "source" else "")
    ]
    if len(first) < len(rirs):
        said.append(f"{len(rirs)} RIRs are of {len(first)} different positions; the first of each was taken")
    if len(first) < 2:
        raise InputError(f"the {what} at {_at(point)} has {len(first)} position; a room needs at least 2")
    return Fixed(rirs[first], positions[first], point, what, tuple(said))


def _of_view(measured: Measurements, wanted: Wanted) -> Measurements:
    """Measurements with the head turned one way."""
    if measured.views is None:
        if wanted.view is not None:
            raise InputError("--view goes with a listener that turns in one place, and this one does not")
        return measured
    views = np.unique(measured.views.round(2))
    if wanted.view is None:
        shown = ", ".join(f"{view:g}" for view in views[:SHOWN])
        raise InputError(f"the listener turns to {len(views)} azimuths ({shown}, ...); choose one with --view DEGREES")
    off = np.abs((measured.views - wanted.view + 180) % 360 - 180)
    if off.min() > 0.5:
        raise InputError(
            f"--view is {wanted.view:g} but the listener looks at {', '.join(f'{view:g}' for view in views)[:200]}"
        )
    return _taken(measured, off == off.min(), f"listener looking at azimuth {wanted.view:g} degrees", views=None)


def _of_channel(measured: Measurements, wanted: Wanted) -> Measurements:
    channels = int(measured.channels.max()) + 1
    if wanted.channel is None or wanted.channel == ALL:
        return measured
    if not isinstance(wanted.channel, int) or not 1 <= wanted.channel <= channels:
        raise InputError(f"--channel is {wanted.channel} but must be 1 to {channels} or all")
    return _taken(measured, measured.channels == wanted.channel - 1, f"channel {wanted.channel} of {channels}")


def _taken(measured: Measurements, rows: np.ndarray, line: str, **changes: None) -> Measurements:
    """Some of the measurements."""
    parts = {name: getattr(measured, name)[rows] for name in ("rirs", "sources", "receivers", "channels")}
    views = {} if measured.views is None else {"views": measured.views[rows]}
    return replace(measured, **{**parts, **views, **changes}, said=(*measured.said, line))


def _stated(point: np.ndarray, ears: np.ndarray, mouths: np.ndarray) -> tuple[int, str]:
    """Which of the points is the one that people state."""
    for what, places in (("receiver", ears), ("source", mouths)):
        away = np.linalg.norm(places - point, axis=1)
        if away.min() <= NEAR:
            return int(away.argmin()), what
    raise InputError(
        f"--receiver {_at(point)} is none of the points that are there, such as {_listed(np.vstack([ears, mouths]))}"
    )


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the distinct points each of points (P, 3) is, and these points in order of appearance."""
    _, first, which = np.unique((points / SAME).round(), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[which.reshape(-1)], points[first[order]]


def _at(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.2f}" for x in point) + ")"


def _listed(points: np.ndarray) -> str:
    return ", ".join(_at(point) for point in points[:SHOWN]) + (", ..." if len(points) > SHOWN else "")
