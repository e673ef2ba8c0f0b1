"""Pictures of maps: a floor plan with the predicted metric, and one with its standard deviation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from haa_peft.environment import package
from haa_peft.maps.field import Map
from haa_peft.maps.metrics import BROADBAND, METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST, MOST = 6, 14
"""Colours of a scale, each some number of JNDs wide."""
STEPS = (0.1, 0.2, 0.25, 0.5, 1, 2, 3, 4, 5, 10, 20)
"""JNDs between two colours."""
LABELLED = 24
"""Measurements whose values are written beside them, at most."""
SAME_HEIGHT = 0.3
"""Metres from the plane; measurements farther from it are drawn smaller."""


def draw_map(field: Map) -> bytes:
    """The picture as PNG.

    Raises
    ------
    InputError
        When matplotlib is missing.
    """
    package("matplotlib", "a picture of a map", "plots")
    from matplotlib.figure import Figure

    low, high = _extent(field)
    wide = (high - low)[0] > 1.25 * (high - low)[1]
    width, depth = np.clip((high - low) / (high - low).max(), 0.35, 1)
    size = (8.2, 2 * 7.4 * depth + 1.4) if wide else (2 * 6.2 * width + 2.6, 6.6)
    figure = Figure(figsize=size, layout="constrained", dpi=150, facecolor="white")
    value, deviation = figure.subplots(*((2, 1) if wide else (1, 2)))
    _values(value, field)
    _deviations(deviation, field)
    for axis in (value, deviation):
        _room(axis, field, low, high)
    figure.legend(*value.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(_title(field), fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _title(field: Map) -> str:
    band = "" if field.band == BROADBAND else f", {field.band} Hz octave"
    return f"{METRICS[field.metric].label}{band} at a height of {field.height:.3g} m: {field.title}"


def _extent(field: Map) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (2,) m of all that is drawn."""
    points = np.concatenate([field.positions[:, :2], field.references[:, :2], field.receiver[None, :2],
                             *field.plan.walls, *field.plan.elsewhere])  # fmt: skip
    low, high = points.min(axis=0), points.max(axis=0)
    return low - 0.03 * (high - low).max(), high + 0.03 * (high - low).max()


def scale_of(values: np.ndarray, jnd: float, centred: bool) -> tuple[np.ndarray, float]:
    """Borders between colours, whole numbers of steps, around nearly all of values (N,); JNDs a step.

    Parameters
    ----------
    values : (N,).
    jnd : just noticeable difference, in their unit.
    centred : around 0.
    """
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [3, 97]) if len(known) else (0.0, jnd)
    if centred:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    step = next((s for s in STEPS if (high - low) / (s * jnd) <= MOST - 2), STEPS[-1])
    first, last = np.floor(low / (step * jnd)), np.ceil(high / (step * jnd))
    if last - first < FEWEST and not centred:
        last = first + max(last - first, 2)
    return np.arange(first, max(last, first + 1) + 1) * step * jnd, step


def draw_colours(axis: Axes, field: Map, values: np.ndarray, borders: np.ndarray, name: str) -> tuple[dict, Any]:
    """Fields of colour around the points of a map's grid; their norm and colour map, and the image.

    Parameters
    ----------
    axis : to draw in.
    field : with the grid.
    values : (N,) at its points.
    borders : (B,) between colours, as :func:`scale_of` gives them.
    name : of the colour map.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    colours = colormaps[name].resampled(256)
    norm = BoundaryNorm(borders, colours.N, extend="both")
    x, y = (np.unique(field.positions[:, i].round(6)) for i in range(2))
    table = np.full((len(y), len(x)), np.nan)
    row, column = (np.searchsorted(at, field.positions[:, i].round(6)) for i, at in ((1, y), (0, x)))
    table[row, column] = values
    image = axis.pcolormesh(_edges(x), _edges(y), table, cmap=colours, norm=norm, rasterized=True)
    return {"cmap": colours, "norm": norm}, image


def _bar(axis: Axes, image: Any, borders: np.ndarray, label: str) -> None:
    bar = axis.figure.colorbar(image, ax=axis, label=label, ticks=borders[:: max(1, len(borders) // 8)], pad=0.02)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.tick_params(labelsize=8)


def _edges(middle: np.ndarray) -> np.ndarray:
    """Borders (N + 1,) of cells around points (N,); a single one is 20 cm wide."""
    if len(middle) == 1:
        return middle[0] + np.array([-0.1, 0.1])
    half = np.diff(middle) / 2
    return np.concatenate([[middle[0] - half[0]], middle[:-1] + half, [middle[-1] + half[-1]]])


def _values(axis: Axes, field: Map) -> None:
    metric = METRICS[field.metric]
    measured = field.measured[np.isfinite(field.measured)]
    every = np.concatenate([field.estimate.values, measured])
    jnd = rounded(metric.step(field.usual))
    borders, step = scale_of(every, jnd, field.difference)
    unit = f" ({metric.unit})" if metric.unit else ""
    label = f"{metric.label}{unit}, a colour each {steps_text(step)} = {step * jnd:.2g} {metric.unit}".rstrip()
    colours = "RdBu_r" if field.difference else "viridis"
    look, image = draw_colours(axis, field, field.estimate.values, borders, colours)
    _bar(axis, image, borders, label)
    axis.set_title("difference" if field.difference else "predicted (area), measured (rings)", fontsize=9)
    known = np.isfinite(field.measured)
    near = np.abs(field.references[:, 2] - field.height) <= SAME_HEIGHT
    for rows, size, label in (
        (near, 90, "measured"),
        (~near, 40, f"measured more than {SAME_HEIGHT:g} m above or below"),
    ):
        if (rows & known).any():
            x, y, _ = field.references[rows & known].T
            axis.scatter(x, y, c=field.measured[rows & known], s=size, edgecolors="black", linewidths=1.3,
                         label=label, zorder=5, **look)  # fmt: skip
    if len(field.references) <= LABELLED:
        _write_values(axis, field, jnd)


def rounded(step: float) -> float:
    """A just noticeable difference to two digits."""
    return float(f"{step:.2g}")


def steps_text(step: float) -> str:
    """How many just noticeable differences a colour is wide, for people."""
    return f"{step:g} JND" if step <= 1 else f"{step:g} JNDs"


def _write_values(axis: Axes, field: Map, jnd: float) -> None:
    """What was measured, beside each ring."""
    from matplotlib.patheffects import withStroke

    digits = int(np.clip(1 - np.floor(np.log10(jnd)), 0, 3)) if jnd < 1 else 1
    for place, value in zip(field.references, field.measured, strict=True):
        if np.isfinite(value):
            axis.annotate(f"{value:.{digits}f}", place[:2], xytext=(6, 5), textcoords="offset points", fontsize=7,
                          zorder=7, path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip


def _deviations(axis: Axes, field: Map) -> None:
    metric = METRICS[field.metric]
    jnd = rounded(metric.step(field.usual))
    borders, step = scale_of(field.estimate.deviations, jnd, False)
    unit = f" ({metric.unit})" if metric.unit else ""
    label = f"standard deviation{unit}, a colour each {steps_text(step)} = {step * jnd:.2g} {metric.unit}".rstrip()
    _, image = draw_colours(axis, field, field.estimate.deviations, borders, "YlOrBr")
    _bar(axis, image, borders, label)
    axis.set_title("standard deviation:\ntwo errors of three are smaller", fontsize=9)
    axis.scatter(
        field.references[:, 0],
        field.references[:, 1],
        s=26,
        facecolors="none",
        edgecolors="black",
        linewidths=1.2,
        zorder=5,
    )


def _room(axis: Axes, field: Map, low: np.ndarray, high: np.ndarray) -> None:
    """Walls, receiver and axes in metres."""
    for line in field.plan.walls:
        axis.plot(*line.T, color="black", linewidth=1.8, solid_capstyle="round", zorder=4)
    for line in field.plan.elsewhere:
        axis.plot(*line.T, color="black", linewidth=1.2, linestyle=":", zorder=4)
    axis.plot(
        *field.receiver[:2], "*", color="#ff1744", markersize=14, markeredgecolor="black", label="receiver", zorder=6
    )
    axis.set(xlabel="x (m)", ylabel="y (m)", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axis.tick_params(labelsize=8)
