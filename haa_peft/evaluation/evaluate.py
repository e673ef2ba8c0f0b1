"""The protocol: predictors of one room against what was measured at held-out positions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from haa_peft.acoustics.iso import iso_metrics
from haa_peft.acoustics.paper import envelope_error, paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.errors import InputError
from haa_peft.evaluation.baselines import linear_interpolation, nearest_neighbour
from haa_peft.inference.predict import References
from haa_peft.rooms.room import Room

ISO_RELATIVE = ("edt_s", "t20_s", "t30_s")
"""ISO metrics whose errors are given in percent of the measured value, as their just-noticeable differences are."""


def baselines(room: Room, k: int, split: str = "test") -> dict[str, np.ndarray]:
    """RIRs (N, 9600) of nearest neighbour and linear interpolation at a split's positions."""
    references = References.of_room(room)
    targets = room.positions[room.splits[split]] - room.receiver
    return {"nearest": nearest_neighbour(references, targets), "linear": linear_interpolation(references, targets, k)}


def errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Absolute errors per position, NaN where truth or prediction leaves a metric undefined.

    Parameters
    ----------
    predicted, true : (N, 9600) at 22 050 Hz.

    Returns
    -------
    dict of (N,) arrays: ``edt_s``, ``c50_db``, ``t60_percent`` (from -25 dB), ``t60_30_percent`` (from -35 dB),
    ``envelope_percent`` (paper-compatible), and under ``iso`` per band the ISO 3382-1 errors: times in percent, C50
    and C80 in dB, D50 as a fraction, Ts in s.
    """
    ours, theirs = paper_metrics(predicted, SAMPLE_RATE), paper_metrics(true, SAMPLE_RATE)
    iso_ours, iso_theirs = iso_metrics(predicted, SAMPLE_RATE), iso_metrics(true, SAMPLE_RATE)
    return {
        "edt_s": np.abs(ours["edt_s"] - theirs["edt_s"]),
        "c50_db": np.abs(ours["c50_db"] - theirs["c50_db"]),
        "t60_percent": 100 * np.abs(ours["t60_20_s"] / theirs["t60_20_s"] - 1),
        "t60_30_percent": 100 * np.abs(ours["t60_30_s"] / theirs["t60_30_s"] - 1),
        "envelope_percent": envelope_error(predicted, true),
        "iso": {
            band: {
                (metric.replace("_s", "_percent") if metric in ISO_RELATIVE else metric): (
                    100 * np.abs(values / iso_theirs[band][metric] - 1)
                    if metric in ISO_RELATIVE
                    else np.abs(values - iso_theirs[band][metric])
                )
                for metric, values in metrics.items()
            }
            for band, metrics in iso_ours.items()
        },
    }


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
    predictions : per predictor its RIRs (N, 9600) at the split's positions, in order.
    k, seed : what the predictions were made with, for the record.
    facts : per predictor what else its row says, such as ``trainable_parameters`` and ``bytes``.

    Returns
    -------
    dict that is JSON: a row per predictor with mean errors, how many positions leave a metric undefined, and the
    errors ``per_position``.
    """
    indices = room.splits[split]
    if not len(indices):
        raise InputError(f"{room.name} has no {split} positions; measure more than 12, or name a split that has some")
    true = room.rirs[indices]
    rows = []
    for name, predicted in predictions.items():
        per_position = errors(predicted, true)
        iso = per_position.pop("iso")
        rows.append(
            {
                "predictor": name,
                **{metric: _mean(values) for metric, values in per_position.items()},
                "trainable_parameters": 0,
                "bytes": 0,
                **(facts or {}).get(name, {}),
                "undefined": {m: int(np.isnan(v).sum()) for m, v in per_position.items() if np.isnan(v).any()},
                "iso": {band: {m: _mean(v) for m, v in metrics.items()} for band, metrics in iso.items()},
                "per_position": {
                    **{m: v.tolist() for m, v in per_position.items()},
                    "iso_broadband": {m: v.tolist() for m, v in iso["broadband"].items()},
                },
            }
        )
    return {
        "room": room.room,
        "configuration": room.configuration,
        "split": split,
        "k": k,
        "seed": seed,
        "shots": len(room.splits["train"]),
        "positions": len(indices),
        "position_indices": indices.tolist(),
        "rows": rows,
    }


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all undefined: the mean is NaN, null in JSON
        return float(np.nanmean(values))
