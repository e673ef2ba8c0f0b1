"""What figures share: names that do not lie over one another, axes, files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from haa_peft.errors import InputError
from haa_peft.files import write_atomically


def show_points(axis: Any, points: Sequence[tuple[float, float, str]], lines: Mapping[str, float]) -> None:
    """Show all points, and the baselines that do not lie so far off that the points would fall together."""
    if not points:
        return
    low, high = axis.get_ylim()
    values = [value for _, value, _ in points]
    reach = 1.5 * max(max(values) - min(values), 0.25 * max(values))
    near = [value for value in lines.values() if min(values) - reach <= value <= max(values) + reach]
    low, high = min([low, *near]), max([high, *near])
    axis.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))


def name_lines(axis: Any, lines: Mapping[str, float], digits: int, styles: Mapping[str, dict[str, str]]) -> None:
    """Horizontal lines, named at the right of the panel in order and not over one another.

    Parameters
    ----------
    axis : of matplotlib, its limits set.
    lines : height by run; what is not finite is left out.
    digits : of the heights, behind the point.
    styles : of :func:`~haa_peft.studies.figures.run_styles`.
    """
    low, high = axis.get_ylim()
    gap = 0.055
    defined = sorted((value, run) for run, value in lines.items() if np.isfinite(value))
    heights = [float(np.clip((value - low) / (high - low), 0, 1)) for value, _ in defined]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], 1 - gap * (len(heights) - 1 - i))
    for (value, run), height in zip(defined, heights, strict=True):
        colour = styles[run]["color"]
        outside = " ↑" if value > high else " ↓" if value < low else ""
        if not outside:
            axis.axhline(value, color=colour, linestyle="--", linewidth=1.2, zorder=1)
        axis.text(
            1.015, height, f"{run} {value:.{digits}f}{outside}", color=colour, fontsize=9, va="center",
            transform=axis.transAxes,
        )  # fmt: skip


def name_points(axis: Any, points: Sequence[tuple[float, float, str]], styles: Mapping[str, dict[str, str]]) -> None:
    """Name every point at the nearest place that is free, with a line to it where that is not beside it."""
    if not points:
        return
    from matplotlib.patheffects import withStroke

    halo = withStroke(linewidth=2.5, foreground="white")
    renderer = axis.figure.canvas.get_renderer()
    centres = axis.transData.transform([point[:2] for point in points])
    scale = axis.figure.dpi / 72
    taken = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in centres]
    inside = axis.bbox
    for (x, y, run), centre in zip(points, centres, strict=True):
        measured = axis.text(x, y, run, fontsize=9)
        box = measured.get_window_extent(renderer)
        measured.remove()
        half = np.array([box.width, box.height]) / 2 + scale
        places = [
            np.array([np.cos(angle) * (half[0] + distance * scale), np.sin(angle) * (half[1] + distance * scale)])
            for distance in (6, 10, 16, 24, 34, 46, 60, 80)
            for angle in np.radians([0, 180, 90, 270, 45, 315, 135, 225])
        ]
        for place in places:
            x0, y0 = centre + place - half
            x1, y1 = centre + place + half
            free = all(x1 < t[0] or x0 > t[2] or y1 < t[1] or y0 > t[3] for t in taken)
            if free and inside.x0 <= x0 and x1 <= inside.x1 and inside.y0 <= y0 and y1 <= inside.y1:
                break
        else:
            place = places[0]
        taken.append((*(centre + place - half), *(centre + place + half)))
        away = np.linalg.norm(place / (half + 8 * scale)) > 1.3
        line = {"arrowstyle": "-", "color": styles[run]["color"], "lw": 0.6, "shrinkB": 4} if away else None
        axis.annotate(
            run, (x, y), place / scale, textcoords="offset points", fontsize=9, color=styles[run]["color"],
            ha="center", va="center", arrowprops=line, zorder=4, in_layout=False, path_effects=[halo],
        )  # fmt: skip


def axis_label(title: str) -> str:
    """``EDT ms`` as an axis says it."""
    metric, unit = title.rsplit(" ", 1)
    return f"mean {metric} error ({unit})"


def plain_log_ticks(axis: Any) -> None:
    """Ticks 1, 2, 5, 10 on a logarithmic axis, in plain numbers."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter("")


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of so many inches, or ``InputError`` without matplotlib; needs no display."""
    if find_spec("matplotlib") is None:
        raise InputError('figures of a study need the package matplotlib; pip install "haa-peft[plots]"')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write it as PNG, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
    return path
