"""What a check finds, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

ERROR, NOTE = "error", "note"
SHOWN = 5
"""Indices that a line names."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    Attributes
    ----------
    kind : a word, such as ``latency``; the same for the same fault.
    severity : ``error`` spoils what is trained on it, ``note`` does not.
    text : what was measured, with figures, in one line.
    cure : what would mend it, part of a line.
    rows : indices of the RIRs that it is about; empty for all.
    figures : the numbers of the text.
    """

    kind: str
    severity: str
    text: str
    cure: str
    rows: tuple[int, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.severity}: {self.kind}: {self.text}; {self.cure}"

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def named(rows: Iterable[int], what: str = "RIR") -> str:
    """``RIR 3``, ``RIRs 3, 4``, or the first few and how many more."""
    rows = list(rows)
    listed = ", ".join(str(int(row)) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{what}{'' if len(rows) == 1 else 's'} {listed}{more}"
