"""Pictures of the page as SVG: text and lines take the colour of the page's text, so that they are read in the dark."""

from __future__ import annotations

import io
import json
import re
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from haa_peft.environment import package
from haa_peft.maps.draw import draw_colours, rounded, scale_of, steps_text
from haa_peft.maps.field import Map
from haa_peft.maps.metrics import BROADBAND, METRICS
from haa_peft.maps.plan import Plan
from haa_peft.page.answers import Place
from haa_peft.page.curves import decay_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = "#010203"
"""Stands for the colour of the page's text."""
PREDICTED, MEASURED, STAR = "#e8590c", "#1c7ed6", "#ff1744"
PARTS = "figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend|PathCollection|QuadMesh"
"""Names of matplotlib's that would be twice in the page."""
WIDE_IN = 4.9
SAME_HEIGHT = 0.3
"""Metres from the plane; measurements farther from it are drawn smaller."""
LOWEST_DB = -45.0
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": TEXT, "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT, "axes.facecolor": "none", "axes.linewidth": 0.8,
}  # fmt: skip


def draw_plan(receiver: np.ndarray, references: np.ndarray, plan: Plan, field: Map | None, about: str) -> str:
    """The floor plan as HTML: with a map if there is one, and what the page's script needs to find metres in it.

    Parameters
    ----------
    receiver, references : (3,) and (R, 3) m.
    plan : of the room.
    field : the map of a metric, whose points, values and measurements are drawn; None while it is computed.
    about : what is shown, for those who do not see it.

    Raises
    ------
    InputError
        When matplotlib is missing.
    """
    package("matplotlib", "a plan", "listen")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    flat = [references[:, :2], receiver[None, :2], *plan.walls, *plan.elsewhere]
    points = np.concatenate(flat if field is None else [*flat, field.positions[:, :2]])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.03 * (high - low).max() + 0.05
    low, high = low - margin, high + margin
    tall = float(np.clip((high - low)[1] / (high - low)[0], 0.35, 1.5)) * (WIDE_IN - 0.7)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDE_IN, tall + 1.3), facecolor="none")
        axis = figure.add_axes((0.6 / WIDE_IN, 1.15 / (tall + 1.3), (WIDE_IN - 0.7) / WIDE_IN, tall / (tall + 1.3)))
        if field is not None:
            bar = figure.add_axes((0.6 / WIDE_IN, 0.5 / (tall + 1.3), (WIDE_IN - 0.9) / WIDE_IN, 0.1 / (tall + 1.3)))
            _map(axis, bar, field)
        else:
            axis.scatter(
                references[:, 0], references[:, 1], s=46, facecolors="none", edgecolors=TEXT, linewidths=1.2, zorder=5
            )
        _walls(axis, plan, receiver)
        axis.set(xlabel="x (m)", ylabel="y (m)", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        svg = _svg(figure, about)
        figure.canvas.draw()
        frame = axis.get_window_extent().get_points() / figure.dpi * 72
    height = figure.get_figheight() * 72
    ends = {"left": frame[0, 0], "right": frame[1, 0], "bottom": height - frame[0, 1], "top": height - frame[1, 1],
            "x": [low[0], high[0]], "y": [low[1], high[1]]}  # fmt: skip
    return f'<div class="plan-picture" data-axes="{escape(json.dumps(ends, default=float))}">{svg}</div>'


def _map(axis: Any, bar_axis: Any, field: Map) -> None:
    metric = METRICS[field.metric]
    known = np.isfinite(field.measured)
    jnd = rounded(metric.step(field.usual))
    borders, step = scale_of(np.concatenate([field.estimate.values, field.measured[known]]), jnd, False)
    look: Any
    look, image = draw_colours(axis, field, field.estimate.values, borders, "viridis")
    near = np.abs(field.references[:, 2] - field.height) <= SAME_HEIGHT
    edge: Any = {"edgecolors": "black", "linewidths": 1.3, "zorder": 6}
    for rows, size in ((near, 64), (~near, 26)):
        x, y = field.references[rows & known][:, :2].T
        axis.scatter(x, y, s=size * 1.9, color="white", zorder=5)
        axis.scatter(x, y, c=field.measured[rows & known], s=size, **edge, **look)
    bar = axis.figure.colorbar(image, cax=bar_axis, orientation="horizontal",
                               ticks=borders[:: max(1, len(borders) // 6)])  # fmt: skip
    unit = f" ({metric.unit})" if metric.unit else ""
    bar.set_label(f"{metric.label}{unit}; a colour is {steps_text(step)} wide = {step * jnd:.2g} {metric.unit}".strip())
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.outline.set_visible(False)


def _walls(axis: Any, plan: Plan, receiver: np.ndarray) -> None:
    for line in plan.walls:
        axis.plot(*line.T, color=TEXT, linewidth=2, solid_capstyle="round", zorder=4)
    for line in plan.elsewhere:
        axis.plot(*line.T, color=TEXT, linewidth=1.3, linestyle=":", zorder=4)
    axis.plot(*receiver[:2], "*", color=STAR, markersize=17, markeredgecolor="white", markeredgewidth=1.2, zorder=7)


def draw_decay(place: Place, rate: int, band: str) -> str:
    """Decay curves at a place and of the nearest measurement, as SVG.

    Parameters
    ----------
    place : with the two RIRs.
    rate : Hz of these.
    band : of the curves.

    Raises
    ------
    InputError
        When matplotlib is missing.
    """
    package("matplotlib", "decay curves", "listen")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    time, curves = decay_curves(np.stack([place.measured, place.rir]), rate, band)
    names = (f"measured {place.away:.2f} m away", "predicted here")
    looks: Any = ({"color": MEASURED, "linestyle": "--", "linewidth": 1.8}, {"color": PREDICTED, "linewidth": 2})
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDE_IN, 3.0), facecolor="none", layout="constrained")
        axis = figure.subplots()
        for curve, name, look in zip(curves, names, looks, strict=True):
            axis.plot(time[: len(curve)] * 1000, curve, label=name, **look)
        axis.set(xlabel="time after the direct sound (ms)", ylabel="remaining energy (dB)", ylim=(LOWEST_DB, 2),
                 xlim=(0, time[-1] * 1000))  # fmt: skip
        axis.grid(color=TEXT, alpha=0.2, linewidth=0.7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.legend(frameon=False, loc="upper right", labelcolor=TEXT)
        of = "all frequencies" if band == BROADBAND else f"octave of {band} Hz"
        return _svg(figure, f"Decay curves, {of}: predicted here and measured {place.away:.2f} m away")


def _svg(figure: Figure, about: str) -> str:
    """A figure as an SVG element that fits its column, in the page's colours."""
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf' id="(?:{PARTS})[\w.]*"', "", svg)
    svg = svg.replace(TEXT, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(about)}" ', 1)
