"""How far geometry estimated from sound is right: errors of boxes and intervals, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from haa_peft.commands.tables import figure, markdown
from haa_peft.geometry.estimate.network import predict_depth
from haa_peft.geometry.estimate.plausibility import SurfaceCheck
from haa_peft.geometry.estimate.shoebox import WALLS, ShoeboxEstimate
from haa_peft.geometry.panorama import Geometry, depth_around, directions, render_depth, solid_angles
from haa_peft.geometry.surfaces import Surfaces, box_around

RIGHT = 0.25
"""Metres that a wall may be off and be called right."""
DEPTHS = ("shoebox", "network", "box around positions", "constant")
CONSTANT = 3.0
"""Metres."""


def compare_with_box(estimate: ShoeboxEstimate, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """An estimate against the true box between corners ``low`` and ``high`` (3,) m, as plain values."""
    truth = np.stack([low, high], axis=1).ravel()
    size = high - low
    return {
        "true_origin": low.tolist(),
        "true_size": size.tolist(),
        "size": estimate.size.tolist(),
        "size_error_m": np.abs(estimate.size - size).tolist(),
        "size_error": (np.abs(estimate.size - size) / size).tolist(),
        "wall_error_m": np.abs(estimate.offsets - truth).tolist(),
        "inside_interval": ((estimate.low <= truth) & (truth <= estimate.high)).tolist(),
        "interval_m": (estimate.high - estimate.low).tolist(),
        "confident": estimate.confident.tolist(),
    }


def depth_errors(
    rirs: np.ndarray, positions: np.ndarray, receiver: np.ndarray, estimate: ShoeboxEstimate, truth: Geometry
) -> dict[str, float]:
    """Mean absolute logarithmic error, over the sphere, of each of ``DEPTHS`` from the same measurements.

    Parameters
    ----------
    rirs : (N, T) at 22 050 Hz.
    positions, receiver : (N, 3) and (3,) m.
    estimate : the shoebox from them.
    truth : what the depth is compared with; where it is open, nothing is.
    """
    true = depth_around(truth, receiver)
    low, high = box_around(np.vstack([positions, receiver]))
    found = (
        render_depth(estimate.surfaces, receiver, directions()),
        predict_depth(rirs, positions, receiver)[0],
        render_depth(Surfaces.shoebox(high - low), receiver - low, directions()),
        np.full(true.shape, CONSTANT),
    )
    weight = np.where(np.isfinite(true), solid_angles(), 0)
    true = np.where(np.isfinite(true), true, 1)
    return {
        name: float((np.abs(np.log(depth / true)) * weight).sum() / weight.sum())
        for name, depth in zip(DEPTHS, found, strict=True)
    }


def depth_table(named: dict[str, Sequence[dict[str, Any]]]) -> str:
    """Means of :func:`depth_errors` of groups of rooms, in percent, as a Markdown table."""
    cells = [["rooms", "number", *(f"{name} %" for name in DEPTHS)]]
    for name, rows in named.items():
        means = (np.mean([row["depth_error"][key] for row in rows]) for key in DEPTHS)
        cells.append([name, str(len(rows)), *(figure(float(np.expm1(mean)), 100, 1) for mean in means)])
    return markdown(cells)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians and shares over the dimensions and walls of rooms, ``rows`` of :func:`compare_with_box`."""
    size, metres = (np.array([row[key] for row in rows]) for key in ("size_error", "size_error_m"))
    wall, inside = (np.array([row[key] for row in rows]) for key in ("wall_error_m", "inside_interval"))
    sure, width = (np.array([row[key] for row in rows]) for key in ("confident", "interval_m"))
    return {
        "rooms": len(rows),
        "median_size_error": float(np.median(size)),
        "mean_size_error": float(size.mean()),
        "size_within_10_percent": float((size < 0.1).mean()),
        "largest_size_error_m": float(metres.max()),
        "size_within_50_cm": float((metres <= 0.5).mean()),
        "walls_within_25_cm": float((wall <= RIGHT).mean()),
        "walls_in_interval": float(inside.mean()),
        "median_interval_m": float(np.median(width)),
        "confident": float(sure.mean()),
        "confident_within_25_cm": float((wall[sure] <= RIGHT).mean()) if sure.any() else float("nan"),
        "confident_in_interval": float(inside[sure].mean()) if sure.any() else float("nan"),
    }


def summary_table(named: dict[str, dict[str, Any]]) -> str:
    """Summaries of groups of rooms as a Markdown table."""
    heads = ["rooms", "number", "size error, median %", "mean %", "within 10 %", "largest m", "walls within 25 cm",
             "in 90 % interval", "interval m", "confident", "of those within 25 cm"]  # fmt: skip
    keys = (("median_size_error", 100, 2), ("mean_size_error", 100, 1), ("size_within_10_percent", 100, 0),
            ("largest_size_error_m", 1, 2), ("walls_within_25_cm", 100, 0), ("walls_in_interval", 100, 0),
            ("median_interval_m", 1, 2), ("confident", 100, 0), ("confident_within_25_cm", 100, 1))  # fmt: skip
    cells = [heads]
    for name, about in named.items():
        cells.append([name, str(about["rooms"]), *(figure(about[key], factor, digits) for key, factor, digits in keys)])
    return markdown(cells)


def sound_tables(estimate: ShoeboxEstimate, check: SurfaceCheck | None, surfaces: Surfaces | None) -> str:
    """Walls of an estimate, and what is heard of given surfaces if there are any, as Markdown tables."""
    given = ["-"] * len(WALLS)
    if surfaces is not None:
        given = [f"{offset:.2f}" for offset in np.stack(surfaces.bounds(), axis=1).ravel()]
    mirrored = estimate.other_reading
    walls = [["wall", "m", "90 % interval", "or, mirrored", "evidence", "confident", "box around surfaces"]]
    for i, name in enumerate(WALLS):
        interval = f"{estimate.low[i]:.2f} to {estimate.high[i]:.2f}"
        sure = "yes" if estimate.confident[i] else "no"
        other = "-" if np.isnan(mirrored[i]) else f"{mirrored[i]:.2f}"
        found = [name, f"{estimate.offsets[i]:.2f}", interval, other, f"{estimate.evidence[i]:.1f}"]
        walls.append([*found, sure, given[i]])
    if check is None:
        return f"{markdown(walls)}\n"
    rows = [["surface", "measurements with its echo", "evidence", "by chance", "heard"]]
    for echo in check.surfaces:
        heard = "-" if echo.heard is None else ("yes" if echo.heard else "no")
        cells = [str(echo.surface), str(echo.paths), figure(echo.evidence), figure(echo.chance, 1, 2), heard]
        rows.append(cells)
    return f"{markdown(walls)}\n\n{markdown(rows)}\n"
