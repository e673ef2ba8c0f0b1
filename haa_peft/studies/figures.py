"""Figures of a study; each function writes one PNG, or nothing where the study has nothing to show for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.commands.tables import COLUMNS
from haa_peft.rooms.room import SIMULATED
from haa_peft.studies.drawing import axis_label, name_lines, name_points, new_figure, plain_log_ticks, save, show_points
from haa_peft.studies.results import RunResult, configurations, mean_error, over_shots, run_names, trained_names

HEARD = COLUMNS[:3]
"""Title, key, factor and digits of early decay time, clarity and reverberation time."""
COLOURS = {"nearest": "#7f7f7f", "linear": "#c4b100", "energy": "#8c564b", "backbone": "#00a5b5", "full": "#d62728"}
OTHER_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#e377c2", "#003f7f", "#7a9a00", "#a05000", "#ff9896")
MARKERS = "osD^vP"


def run_styles(results: Sequence[RunResult]) -> dict[str, dict[str, str]]:
    """Per run the ``color`` and ``marker`` that it has in all figures."""
    others = [run for run in run_names(results) if run not in COLOURS]
    styles = {run: {"color": colour, "marker": "o"} for run, colour in COLOURS.items()}
    for i, run in enumerate(others):
        lap, place = divmod(i, len(OTHER_COLOURS))
        styles[run] = {"color": OTHER_COLOURS[place], "marker": MARKERS[lap % len(MARKERS)]}
    return styles


def plot_size(results: Sequence[RunResult], path: Path, styles: Mapping[str, dict[str, str]]) -> Path | None:
    """Mean errors over configurations against trainable weights and bytes; baselines are lines.

    No bars: rows share positions and seeds, so what tells them apart is the interval of their paired difference. A
    baseline far above everything else is written at the upper edge. Nothing is shown where all are of one size.
    """
    trained = trained_names(results)
    sizes = {(r.trainable_parameters, r.bytes) for r in results if r.run in trained}
    if not sizes or (len(sizes) == 1 and len(trained) > 1):
        return None
    figure = new_figure((15, 9))
    fixed = [run for run in run_names(results) if run not in trained]
    labels = []
    for axes, quantity in zip(figure.subplots(2, 3), ("trainable weights", "bytes"), strict=True):
        for axis, (title, metric, factor, digits) in zip(axes, HEARD, strict=True):
            points = []
            for run in trained:
                size = next(r.bytes if quantity == "bytes" else r.trainable_parameters for r in results if r.run == run)
                mean = factor * mean_error(results, run, metric)
                axis.plot(size, mean, markersize=8, zorder=3, **styles[run])
                points.append((size, mean, run))
            points = [point for point in points if np.isfinite(point[1])]
            lines = {run: factor * mean_error(results, run, metric) for run in fixed}
            axis.set(xscale="log", xlabel=quantity, ylabel=axis_label(title))
            axis.margins(x=0.2, y=0.15)
            show_points(axis, points, lines)
            name_lines(axis, lines, digits, styles)
            labels.append((axis, points))
    figure.draw_without_rendering()
    for axis, points in labels:
        name_points(axis, points, styles)
    return save(figure, path)


def plot_shots(results: Sequence[RunResult], path: Path, styles: Mapping[str, dict[str, str]]) -> Path | None:
    """Mean errors against the number of measurements, a line per run; :func:`over_shots` says of which."""
    results = over_shots(results)
    if not results:
        return None
    shots = sorted({r.shots for r in results})
    figure = new_figure((15, 4.8))
    of_shots = {count: [r for r in results if r.shots == count] for count in shots}
    baselines = {r.run for r in results if r.group == "baseline"}
    axes = figure.subplots(1, 3)
    for axis, (title, metric, factor, _) in zip(axes, HEARD, strict=True):
        for run in run_names(results):
            means = [factor * mean_error(of_shots[count], run, metric) for count in shots]
            axis.plot(shots, means, "--" if run in baselines else "-", label=run, markersize=6, **styles[run])
        axis.set(xscale="log", yscale="log", xlabel="measurements", ylabel=axis_label(title))
        axis.set_xticks(shots, [str(count) for count in shots], minor=False)
        axis.set_xticks([], minor=True)
        plain_log_ticks(axis.yaxis)
        axis.grid(alpha=0.25, which="both")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return save(figure, path)


def plot_maps(results: Sequence[RunResult], path: Path, runs: Sequence[str]) -> Path | None:
    """EDT errors of some runs at the tested positions of one room, a row of maps for each configuration.

    Of several seeds it shows the mean. Rooms that are much deeper than wide lie on their side.
    """
    runs, names = [run for run in runs if any(r.run == run for r in results)], configurations(results)
    if not runs:
        return None
    figure = new_figure((1, 1))
    from matplotlib.collections import LineCollection
    from matplotlib.colors import PowerNorm

    points = np.concatenate([np.concatenate([r.positions_xyz[:, :2], *r.floor_plan]) for r in results])
    extent = np.ptp(points, axis=0)
    order = [1, 0] if extent[1] > 2 * extent[0] else [0, 1]
    width, depth = extent[order]
    panel = float(np.clip(11 / len(runs), 2.6, 4.2))
    height = (0.85 * panel * min(depth / width, 1.6) + 0.55) * len(names) + 0.8
    figure.set_size_inches(panel * len(runs) + 1.2, height)
    shared: Any = "row" if results[0].room == SIMULATED else "all"  # those are as many rooms as configurations
    grid = figure.subplots(len(names), len(runs), squeeze=False, sharex=shared, sharey=shared)
    at = {(n, run): [r for r in results if (r.name, r.run) == (n, run)] for n in names for run in runs}
    shown = {key: _mean_edt(here) for key, here in at.items()}
    every = np.concatenate([error for _, error in shown.values()])
    top = np.percentile(every[np.isfinite(every)], 98) if np.isfinite(every).any() else 1
    scale = PowerNorm(0.5, 0, max(top, 1))
    size = np.clip(3000 * min(1, 2 * depth / width) / max(len(error) for _, error in shown.values()), 7, 50)
    for ((name, run), here), axis in zip(at.items(), grid.flat, strict=True):
        if here:
            walls = list(here[0].floor_plan[:, :, order])
            axis.add_collection(LineCollection(walls, colors="0.35", linewidths=1, capstyle="projecting", zorder=2))
            axis.autoscale_view()
        layer = 3 if len({tuple(r.splits["train"]) for r in here}) == 1 else 1.5
        for r in here:
            axis.plot(
                *r.references_xyz[:, order].T, "x", color="black", markersize=4, markeredgewidth=0.9, zorder=layer
            )
            axis.plot(*r.receiver_xyz[order], "*", color="#00c853", markersize=10, markeredgecolor="black", zorder=4)
        xyz, error = shown[name, run]
        dots = axis.scatter(
            *xyz[:, order].T, c=error, s=size, cmap="plasma_r", norm=scale, edgecolors="0.3", linewidths=0.3, zorder=2
        )
        mean = f", {np.nanmean(error):.0f} ms" if np.isfinite(error).any() else ""
        axis.set_title(f"{name.split('/')[1]}: {run}{mean}", fontsize=9)
        axis.set_aspect("equal")
    for axis in grid[-1]:
        axis.set_xlabel(f"{'xy'[order[0]]} (m)")
    for axis in grid[:, 0]:
        axis.set_ylabel(f"{'xy'[order[1]]} (m)")
    figure.colorbar(dots, ax=grid, label="EDT error (ms)", extend="max", aspect=30)
    figure.suptitle(results[0].room, fontsize=11)
    figure.supxlabel("star: receiver; crosses: measurements (below the dots of other seeds)", fontsize=9)
    return save(figure, path)


def plot_decay_curves(
    results: Sequence[RunResult], path: Path, runs: Sequence[str], styles: Mapping[str, dict[str, str]]
) -> Path | None:
    """True and predicted decay curves at the kept positions, a row for each configuration; the first seed's.

    Parameters
    ----------
    results : of the runs.
    path : of the figure.
    runs : which of them are drawn, in order.
    styles : of :func:`run_styles`.
    """
    first = {name: min(r.seed for r in results if r.name == name) for name in configurations(results)}
    kept_by = sorted((r for r in results if r.run in runs), key=lambda r: runs.index(r.run))
    kept_by = [r for r in kept_by if len(r.decay_curves["position"])]
    rows = {n: [r for r in kept_by if (r.name, r.seed) == (n, seed)] for n, seed in first.items()}
    rows = {n: row for n, row in rows.items() if row}
    if not rows:
        return None
    most = max(len(row[0].decay_curves["position"]) for row in rows.values())
    figure = new_figure((min(4.2 * most + 1, 15), 3 * len(rows) + 0.5))
    grid = figure.subplots(len(rows), most, squeeze=False, sharex=True, sharey=True)
    lines: dict[str, Any] = {}
    dashes = ("-", "--", "-.", ":")  # an adapter that is the backbone unchanged must not hide it
    for axes, (name, row) in zip(grid, rows.items(), strict=True):
        kept = row[0].positions[row[0].decay_curves["position"]]
        for axis in axes[len(kept) :]:
            axis.set_visible(False)
        for axis, position in zip(axes, kept, strict=False):
            for r in row:
                curves = r.decay_curves
                for i in np.flatnonzero(r.positions[curves["position"]] == position):
                    if r is row[0]:
                        lines["true"] = axis.plot(curves["time_s"], curves["true_db"][i], color="black", linewidth=2.5)[
                            0
                        ]
                    look = {"color": styles[r.run]["color"], "linestyle": dashes[runs.index(r.run) % len(dashes)]}
                    (lines[r.run],) = axis.plot(curves["time_s"], curves["predicted_db"][i], linewidth=1.5, **look)
            axis.set_title(f"{name}, position {position}", fontsize=9)
            axis.set_ylim(-50, 2)
            axis.grid(alpha=0.25)
        axes[0].set_ylabel("remaining energy (dB)")
    for axis in grid[-1]:
        axis.set_xlabel("time (s)")
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", frameon=False)
    return save(figure, path)


def plot_transfer(results: Sequence[RunResult], path: Path) -> Path | None:
    """Where weights were trained (rows) against where they were tested (columns), a panel per room and run.

    Cells hold the mean EDT error in ms and its difference from the backbone's without adaptation, which colours them.
    """
    moved = [r for r in results if r.is_transfer]
    if not moved:
        return None
    rooms, runs = sorted({r.room for r in moved}), run_names(moved)
    tables = {
        (room, run): transfer_table([r for r in results if r.room == room], run) for room in rooms for run in runs
    }
    most = max(len(tested) for _, tested, *_ in tables.values())
    rows = sum(max(len(tables[room, run][0]) for run in runs) for room in rooms)
    figure = new_figure(((0.95 * most + 1.2) * len(runs) + 1.2, 0.5 * rows + 1.4 * len(rooms)))
    sizes = [max(len(tables[room, run][0]) for run in runs) for room in rooms]
    grid = figure.subplots(len(rooms), len(runs), squeeze=False, height_ratios=sizes)
    for axis, ((room, run), (trained, tested, error, relative)) in zip(grid.flat, tables.items(), strict=True):
        axis.set(title=f"{room}: {run}", facecolor="0.93")
        if not trained:
            axis.set_axis_off()
            continue
        image = axis.imshow(100 * relative, cmap="RdBu_r", vmin=-50, vmax=50, aspect="auto")
        for (i, j), value in np.ndenumerate(error):
            text = f"{1000 * value:.1f}\n{100 * relative[i, j]:+.0f} %".replace("\nnan %", "").replace("+nan %", "")
            look = {
                "color": "white" if abs(relative[i, j]) > 0.35 else "black",
                "weight": "bold" if trained[i] == tested[j] else "normal",
            }
            if np.isfinite(value):
                axis.text(j, i, text, ha="center", va="center", fontsize=9, **look)
        axis.set_xticks(range(len(tested)), [name.removeprefix(f"{room}/") for name in tested])
        axis.set_yticks(range(len(trained)), [name.removeprefix(f"{room}/") for name in trained])
        axis.set(xlabel="tested in", ylabel="trained in")
    label = "EDT error against the\nunadapted backbone's (%)"
    figure.colorbar(image, ax=grid, label=label, extend="both")
    figure.suptitle("mean EDT error (ms); in bold where it was trained", fontsize=11)
    return save(figure, path)


def transfer_table(results: Sequence[RunResult], run: str) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Of one run: mean EDT errors by where it was trained (rows, R) and tested (columns, C).

    Only seeds and configurations that take part in transfers, so that the diagonal compares with what is beside it.

    Returns
    -------
    The rows' names, the columns' names, errors (R, C) s, and (R, C) how much they are above the backbone's, as a share.
    """
    moved = [r for r in results if r.run == run and r.is_transfer]
    seeds, names = {r.seed for r in moved}, {r.name for r in moved} | {str(r.trained_on) for r in moved}
    here = [r for r in results if r.run == run and r.seed in seeds and r.name in names]
    trained, tested = sorted({str(r.trained_on) for r in here}), configurations(here)
    error = np.full((len(trained), len(tested)), np.nan)
    relative = error.copy()
    for i, j in np.ndindex(error.shape):
        cell = [r for r in here if (str(r.trained_on), r.name) == (trained[i], tested[j])]
        unadapted = [r for r in results if r.name == tested[j] and r.seed in {c.seed for c in cell}]
        error[i, j] = mean_error(cell, run, "edt_s")
        relative[i, j] = error[i, j] / mean_error(unadapted, "backbone", "edt_s") - 1
    return trained, tested, error, relative


def _mean_edt(results: Sequence[RunResult]) -> tuple[np.ndarray, np.ndarray]:
    """All tested positions (P, 3) m of some seeds, and their mean EDT errors (P,) in ms."""
    if not results:
        return np.zeros((0, 3)), np.zeros(0)
    every = np.concatenate([r.positions for r in results])
    xyz = np.concatenate([r.positions_xyz for r in results])
    error = np.concatenate([r.errors["edt_s"] for r in results])
    positions, first = np.unique(every, return_index=True)
    means = np.full(len(positions), np.nan)
    for i, position in enumerate(positions):
        defined = error[(every == position) & np.isfinite(error)]
        if len(defined):
            means[i] = 1000 * defined.mean()
    return xyz[first], means
