"""Reports as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from haa_peft.commands.sentences import shown_name

COLUMNS = (
    ("EDT ms", "edt_s", 1000, 1),
    ("C50 dB", "c50_db", 1, 2),
    ("T60 %", "t60_percent", 1, 1),
    ("T60(-35) %", "t60_30_percent", 1, 1),
    ("envelope %", "envelope_percent", 1, 2),
)
ALIGNED = 100
"""Rows that make the columns of a streamed table as wide as they are."""


def figure(value: float | None, factor: float = 1, digits: int = 1) -> str:
    """A number for a table; a dash where it is undefined."""
    return "-" if value is None or value != value else f"{factor * value:.{digits}f}"


def report_table(report: Mapping[str, Any]) -> str:
    """Mean absolute errors of every predictor as a Markdown table, with a line that says what they are of."""
    cells = [["predictor", *(title for title, *_ in COLUMNS), "ISO C50 dB", "weights", "bytes"]]
    for row in report["rows"]:
        broadband = row["iso"]["broadband"]
        cells.append(
            [
                shown_name(row),
                *(figure(row[key], factor, digits) for _, key, factor, digits in COLUMNS),
                figure(broadband["c50_db"], 1, 2),
                str(row["trainable_parameters"]),
                str(row["bytes"]),
            ]
        )
    heading = (
        f"{report['room']}/{report['configuration']}: mean absolute errors at {report['positions']} {report['split']} "
        f"positions, {report['shots']} measurements, K = {report['k']}, seed {report['seed']}"
        + (f", phase of {report['phase']}" if report.get("phase", "references") != "references" else "")
    )
    return heading + "\n\n" + markdown(cells)


def markdown(cells: list[list[str]]) -> str:
    """A Markdown table with aligned columns; the first row is the head."""
    return "\n".join(stream_markdown(cells[0], cells[1:]))


def stream_markdown(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a Markdown table of any length, whose columns are as wide as its first ``ALIGNED`` rows."""
    rows = iter(rows)
    first = [head, *islice(rows, ALIGNED)]
    widths = [max(len(row[i]) for row in first) for i in range(len(head))]

    def line(row: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    yield line(head)
    yield "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    yield from map(line, chain(first[1:], rows))
