"""Metrics over a room: what an adapter predicts at points of a grid, what was measured, and differences."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from haa_peft.checks import check_kind, real_numbers
from haa_peft.errors import InputError
from haa_peft.inference.predictor import RoomPredictor
from haa_peft.maps.deviation import Deviations
from haa_peft.maps.metrics import BROADBAND, METRICS, check_metric, metric_values
from haa_peft.maps.plan import Plan, floor_plan
from haa_peft.rooms.room import NEAREST

AT_ONCE = 64
"""Positions that a thread takes at once, in order."""


class Estimate(NamedTuple):
    """Predicted values (N,) of a metric, NaN where it is not defined, and their standard deviations (N,)."""

    values: np.ndarray
    deviations: np.ndarray


def predict_metrics(
    predictor: RoomPredictor,
    positions_xyz: ArrayLike,
    metrics: Sequence[str] = ("c50",),
    band: str = BROADBAND,
    *,
    k: int | None = None,
    seed: int = 0,
    receiver: ArrayLike | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Estimate]:
    """Metrics of the RIRs that the adapter in use predicts at positions, and how far they may be off.

    Parameters
    ----------
    predictor : with the adapter loaded.
    positions_xyz : (N, 3) or (3,) m in room coordinates.
    metrics : of :data:`~haa_peft.maps.metrics.METRICS`.
    band : of :data:`~haa_peft.maps.metrics.BANDS`.
    k, seed, receiver : as :meth:`~haa_peft.inference.predictor.RoomPredictor.predict` takes them.
    progress : given an iterator over values (n, metrics) of positions one after the other, gives one that tells how
        far it is.

    Returns
    -------
    By metric, values (N,) and standard deviations (N,).

    Raises
    ------
    InputError
        As :meth:`~haa_peft.inference.predictor.RoomPredictor.predict`, and for other metrics or bands.
    """
    check_kind("metrics", metrics, list | tuple, "a list of names")
    if not metrics:
        raise InputError(f"metrics is {metrics!r} but must name at least one of {', '.join(METRICS)}")
    for metric in metrics:
        check_metric(metric, band)
    positions = np.atleast_2d(real_numbers("positions", positions_xyz))
    scale, rate = predictor.scale, predictor.sample_rate  # of this thread's room
    streams = [predictor.stream(positions[start : start + AT_ONCE], k=k, seed=seed, receiver=receiver)
               for start in range(0, len(positions), AT_ONCE)]  # fmt: skip

    def of(stream: Iterable[np.ndarray]) -> np.ndarray:
        values = (np.array([metric_values(rirs * scale, rate, metric, band) for metric in metrics]) for rirs in stream)
        return np.concatenate([np.empty((len(metrics), 0)), *values], axis=1).T

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        values = np.concatenate([np.empty((0, len(metrics))), *progress(pool.map(of, streams))]).T
    known = Deviations(predictor, k=k, seed=seed, receiver=receiver)
    decibels = known.at(positions.reshape(-1, 3))
    return {
        metric: Estimate(row, decibels * known.per_decibel(metric, band))
        for metric, row in zip(metrics, values, strict=True)
    }


@dataclass(frozen=True)
class Map:
    """A metric on a horizontal plane of a room.

    Attributes
    ----------
    title : which configuration, or which two are compared.
    metric, band : of ``METRICS`` and ``BANDS``.
    height : of the plane, m.
    positions : (N, 3) m, points of a grid.
    estimate : values and standard deviations there, (N,) each.
    references : (R, 3) m, where was measured.
    measured : (R,) values there, NaN where unknown.
    receiver : (3,) m.
    plan : the room from above.
    usual : (N,) values by which JNDs go that are shares of them.
    difference : whether values are one configuration's less another one's.
    """

    title: str
    metric: str
    band: str
    height: float
    positions: np.ndarray
    estimate: Estimate
    references: np.ndarray
    measured: np.ndarray
    receiver: np.ndarray
    plan: Plan
    usual: np.ndarray
    difference: bool = False

    def to_csv(self) -> bytes:
        """A row for each point and for each measurement, which has no standard deviation."""
        column = METRICS[self.metric].column
        text = io.StringIO()
        text.write(f"kind,x_m,y_m,z_m,{column},standard_deviation\n")
        for place, value, deviation in zip(self.positions, *self.estimate, strict=True):
            text.write(",".join(["predicted", *(f"{x:.4f}" for x in place), _number(value), _number(deviation)]) + "\n")
        for place, value in zip(self.references, self.measured, strict=True):
            text.write(",".join(["measured", *(f"{x:.4f}" for x in place), _number(value), ""]) + "\n")
        return text.getvalue().encode()

    def minus(self, other: Map) -> Map:
        """A configuration less another one at the same points; deviations as if their errors were independent.

        Raises
        ------
        InputError
            When the other one is of another metric, band or grid.
        """
        if (self.metric, self.band) != (other.metric, other.band) or not np.array_equal(
            self.positions, other.positions
        ):
            raise InputError(
                f"{self.title} and {other.title} are maps of different metrics, bands or points; make both alike"
            )
        estimate = Estimate(
            self.estimate.values - other.estimate.values,
            np.hypot(self.estimate.deviations, other.estimate.deviations),
        )
        apart = np.linalg.norm(self.references[:, None] - other.references, axis=-1)
        same = apart.min(axis=1) < NEAREST
        measured = np.where(same, self.measured - other.measured[apart.argmin(axis=1)], np.nan)
        return Map(f"{self.title} - {other.title}", self.metric, self.band, self.height, self.positions, estimate,
                   self.references, measured, self.receiver, self.plan, self.usual, difference=True)  # fmt: skip


def make_map(
    predictor: RoomPredictor,
    positions: np.ndarray,
    metric: str,
    band: str = BROADBAND,
    *,
    k: int | None = None,
    seed: int = 0,
    receiver: ArrayLike | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Map:
    """A map of the adapter in use.

    Parameters
    ----------
    predictor : with the adapter loaded.
    positions : (N, 3) m, points of a grid in a horizontal plane.
    metric, band, k, seed, receiver, progress : as for :func:`predict_metrics`.
    """
    check_metric(metric, band)
    given: dict[str, Any] = {"k": k, "seed": seed, "receiver": receiver}
    estimate = predict_metrics(predictor, positions, (metric,), band, progress=progress, **given)[metric]
    place, references, rirs, _ = predictor.measured(receiver)
    measured = metric_values(rirs * predictor.scale, predictor.sample_rate, metric, band)
    height = float(positions[0, 2])
    plan = floor_plan(predictor.geometry, place, height)
    return Map(predictor.name, metric, band, height, positions, estimate, references, measured, place, plan,
               estimate.values)  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.5g}" if np.isfinite(value) else ""
