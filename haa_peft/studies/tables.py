"""Tables of a study's report, as rows of cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from haa_peft.commands.tables import COLUMNS, figure
from haa_peft.studies import figures
from haa_peft.studies.results import RunResult, configurations, mean_error, run_names
from haa_peft.studies.statistics import Difference, compare_runs

SHOWN = tuple(column for column in COLUMNS if column[1] != "t60_30_percent")
HEARD = figures.HEARD
EQUAL = 5e-4
"""Relative difference that no table shows."""


def against_table(results: Sequence[RunResult], other: str) -> list[list[str]]:
    """Differences of all runs from another, in each metric."""
    rows = [
        [run, *(in_words(compare_runs(results, run, other, metric)) for _, metric, *_ in SHOWN)]
        for run in run_names(results)
        if run != other
    ]
    return [["run", *(title_of(column) for column in SHOWN)], *rows]


def mean_table(results: Sequence[RunResult]) -> list[list[str]]:
    """Mean errors, sizes and times of all runs."""
    cells = [["run", *(title for title, *_ in SHOWN), "weights", "bytes", "seconds", "unchanged"]]
    every = len(configurations(results))
    for run in run_names(results):
        here = [r for r in results if r.run == run]
        tested = len(configurations(here))
        seconds = [r.seconds for r in here if r.seconds is not None]
        is_baseline = here[0].group == "baseline"
        cells.append(
            [
                run if tested == every else f"{run} ({tested} of {every} configurations)",
                *(figure(mean_error(here, run, metric), factor, digits) for _, metric, factor, digits in SHOWN),
                str(here[0].trainable_parameters),
                figure(float(np.mean([r.bytes for r in here])), 1, 0),
                figure(float(np.mean(seconds)) if seconds else None, 1, 1),
                "-" if is_baseline else f"{sum(r.best_step == 0 for r in here)} of {len(here)}",
            ]
        )
    return cells


def configuration_table(results: Sequence[RunResult], column: tuple) -> list[list[str]]:
    """Mean errors of one metric in each configuration, the lowest in bold."""
    _, metric, factor, digits = column
    names = run_names(results)
    cells = [["", *names]]
    for name in configurations(results):
        errors = [mean_error([r for r in results if r.name == name], run, metric) for run in names]
        lowest = figure(np.nanmin(errors) if np.isfinite(errors).any() else None, factor, digits)
        shown = [figure(error, factor, digits) for error in errors]
        cells.append([name, *(f"**{text}**" if text == lowest != "-" else text for text in shown)])
    return cells


def verdict_table(results: Sequence[RunResult], compare_with: str) -> list[list[str]]:
    """Differences from a run in each configuration and metric that is heard."""
    names = [run for run in run_names(results) if run != compare_with]
    cells = [["", *names]]
    for name in configurations(results):
        here = [r for r in results if r.name == name]
        for column in HEARD:
            found = [in_words(compare_runs(here, run, compare_with, column[1]), jnd=False) for run in names]
            cells.append([f"{name} {title_of(column)}", *found])
    return cells


def shots_table(results: Sequence[RunResult], compare_with: str) -> list[list[str]]:
    """Mean errors for each number of measurements."""
    names = run_names(results)
    compared = compare_with if compare_with in names else names[0]
    cells = [["measurements", "run", *(title for title, *_ in HEARD), f"EDT against `{compared}`"]]
    for shots in sorted({r.shots for r in results}):
        here = [r for r in results if r.shots == shots]
        for run in run_names(here):
            errors = [figure(mean_error(here, run, metric), factor, digits) for _, metric, factor, digits in HEARD]
            against = "-" if run == compared else in_words(compare_runs(here, run, compared, "edt_s"))
            cells.append([str(shots), run, *errors, against])
    return cells


def transfer_table(results: Sequence[RunResult]) -> list[list[str]]:
    """EDT errors with weights of another configuration."""
    cells = [["run", "trained in", "tested in", "EDT ms", "against `backbone`", "against its own"]]
    for run, source, name in sorted({(r.run, str(r.trained_on), r.name) for r in results if r.is_transfer}):
        here = [r for r in results if r.name == name and r.run in (run, "backbone")]
        own = [r for r in here if not r.is_transfer]
        moved = [dataclasses.replace(r, run="moved") for r in here if (r.run, r.trained_on) == (run, source)]
        differences = [in_words(compare_runs(own + moved, "moved", other, "edt_s")) for other in ("backbone", run)]
        cells.append([run, source, name, figure(mean_error(moved, "moved", "edt_s"), 1000), *differences])
    return cells


def in_words(found: Difference, jnd: bool = True) -> str:
    """A difference in percent with its interval, in just-noticeable differences, and the verdict."""
    if found.verdict == "undefined":
        return "-"
    if max(abs(found.relative_low), abs(found.relative_high)) < EQUAL or found.low == found.high == 0:
        return "equal"
    of_mean, low, high = (_percent(value) for value in (found.relative, found.relative_low, found.relative_high))
    text = f"{of_mean} % [{low}, {high}]"
    text += f" {found.jnd:+.2f} JND" if jnd and found.jnd == found.jnd else ""
    return f"{text} {found.verdict}"


def _percent(value: float) -> str:
    return f"{100 * value:+.{int(abs(value) < 0.0995)}f}"


def title_of(column: tuple) -> str:
    """A metric's name without its unit."""
    return column[0].rsplit(" ", 1)[0]


def listed(values: Iterable) -> str:
    """Distinct values, sorted."""
    return ", ".join(map(str, sorted(set(values))))
