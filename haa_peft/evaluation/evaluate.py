"""The protocol: predictors of one room against what was measured at held-out positions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.acoustics.paper import envelope_error, paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.rooms.room import Room

ISO_RELATIVE = ("edt_s", "t20_s", "t30_s")
"""ISO metrics whose errors are given in percent of the measured value, as their just-noticeable differences are."""


@dataclass(frozen=True)
class Metrics:
    """All metrics of RIRs (N, 9600) at 22 050 Hz, each (N,)."""

    rirs: np.ndarray
    paper: dict[str, np.ndarray]
    iso: dict[str, dict[str, np.ndarray]]

    @classmethod
    def of(cls, rirs: np.ndarray, *, iso: bool = True) -> Metrics:
        """Measure RIRs (N, 9600); without ``iso``, which takes longest, there are no bands in :attr:`iso`."""
        return cls(rirs, paper_metrics(rirs, SAMPLE_RATE), iso_metrics(rirs, SAMPLE_RATE) if iso else {})


def errors(predicted: Metrics, true: Metrics) -> dict[str, Any]:
    """Absolute errors per position, NaN where truth or prediction leaves a metric undefined.

    Returns
    -------
    dict of (N,) arrays: ``edt_s``, ``c50_db``, ``t60_percent`` (from -25 dB), ``t60_30_percent`` (from -35 dB),
    ``envelope_percent`` (paper-compatible), and under ``iso`` per band the ISO 3382-1 errors: times in percent, C50
    and C80 in dB, D50 as a fraction, Ts in s.
    """
    difference = {metric: np.abs(predicted.paper[metric] - values) for metric, values in true.paper.items()}
    return {
        "edt_s": difference["edt_s"],
        "c50_db": difference["c50_db"],
        "t60_percent": 100 * difference["t60_20_s"] / true.paper["t60_20_s"],
        "t60_30_percent": 100 * difference["t60_30_s"] / true.paper["t60_30_s"],
        "envelope_percent": envelope_error(predicted.rirs, true.rirs),
        "iso": {
            band: dict(_iso_error(metric, predicted.iso[band][metric], values) for metric, values in metrics.items())
            for band, metrics in true.iso.items()
        },
    }


def _iso_error(metric: str, predicted: np.ndarray, true: np.ndarray) -> tuple[str, np.ndarray]:
    difference = np.abs(predicted - true)
    if metric in ISO_RELATIVE:
        return metric.replace("_s", "_percent"), 100 * difference / true
    return metric, difference


def evaluate(
    room: Room,
    predictions: Mapping[str, np.ndarray],
    *,
    k: int,
    seed: int,
    split: str = "test",
    facts: Mapping[str, dict] | None = None,
) -> dict[str, Any]:
    """Report of predictors on one split of a room.

    Parameters
    ----------
    room : with the true RIRs.
    predictions : per predictor its RIRs (N, 9600) at the split's positions, in order.
    k, seed : what the predictions were made with, for the record.
    split : whose positions were predicted.
    facts : per predictor what else its row says, such as ``trainable_parameters`` and ``bytes``.

    Returns
    -------
    dict that is JSON: a row per predictor with mean errors, how many positions leave a metric undefined
    (``iso_defined``: at how many positions an ISO error is defined, which differs between predictors), and the errors
    ``per_position``.
    """
    check_split(room, split)
    true = Metrics.of(room.measured(split))
    rows = []
    for name, predicted in predictions.items():
        per_position = errors(Metrics.of(predicted), true)
        row = {"predictor": name, "trainable_parameters": 0, "bytes": 0, **(facts or {}).get(name, {})}
        row |= means(per_position)
        iso = per_position.pop("iso")
        row["per_position"] = {m: v.tolist() for m, v in per_position.items()}
        row["per_position"]["iso_broadband"] = {m: v.tolist() for m, v in iso["broadband"].items()}
        rows.append(row)
    return {**report_head(room, split, k, seed), "rows": rows}


def means(per_position: Mapping[str, Any]) -> dict[str, Any]:
    """Mean errors of :func:`errors`, and how many positions leave a metric undefined, as in a row of a report."""
    broadband = {metric: values for metric, values in per_position.items() if metric != "iso"}
    iso = per_position["iso"]
    return {
        **{metric: _mean(values) for metric, values in broadband.items()},
        "undefined": {m: int(np.isnan(v).sum()) for m, v in broadband.items() if np.isnan(v).any()},
        "iso": {band: {m: _mean(v) for m, v in metrics.items()} for band, metrics in iso.items()},
        "iso_defined": {
            band: {m: int(np.isfinite(v).sum()) for m, v in metrics.items()} for band, metrics in iso.items()
        },
    }


def report_head(room: Room, split: str, k: int, seed: int) -> dict[str, Any]:
    """What a report is of, without its rows.

    Parameters
    ----------
    room, split : where, and at whose positions.
    k, seed : what the predictions were made with.
    """
    return {
        "room": room.room,
        "configuration": room.configuration,
        "split": split,
        "k": k,
        "seed": seed,
        "shots": sum(len(single.own) for single in room.at_receivers),
        "borrowed": room.borrowed,
        "positions": room.count(split),
        "position_indices": [int(i) for single in room.at_receivers for i in single.splits[split]],
        **({"receivers": [single.count(split) for single in room.at_receivers]} if room.others else {}),
        "rows": [],
    }


def check_split(room: Room, split: str) -> None:
    """Raise ``InputError`` if a split has no positions."""
    if not room.count(split):
        raise InputError(f"{room.name} has no {split} positions; measure at 14 or more, or give splits in room.json")


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all undefined: the mean is NaN, null in JSON
        return float(np.nanmean(values))
