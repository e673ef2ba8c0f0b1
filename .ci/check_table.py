"""Check what README's first command printed against the table that README shows: check_table.py OUTPUT [README].

Baselines follow from the embedded room alone and must be README's to 2 %; what was trained, to 15 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

BASELINES = ("nearest", "linear", "energy", "backbone")
MARK = "| predictor"


def table(text: str) -> dict[str, list[float]]:
    """Rows of the first table of predictors in a text."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(MARK)), None)
    if start is None:
        sys.exit(f"error: no line begins with {MARK!r}")
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = [float(cell) for cell in cells]
    return rows


def main(output: str, readme: str = "README.md") -> None:
    """End with status 1 and a line for every difference."""
    printed = Path(output).read_text(encoding="utf-8")
    found, shown = table(printed), table(Path(readme).read_text(encoding="utf-8"))
    wrong = [f"rows are {sorted(found)}, README has {sorted(shown)}"] if set(found) != set(shown) else []
    wrong += [] if "verdict" in printed else ["no line gives a verdict"]
    for name in set(found) & set(shown):
        for i, (new, old) in enumerate(zip(found[name], shown[name], strict=True)):
            # the last digit that a table shows is chance
            allowed = 0.11 + (0.02 if name in BASELINES else 0.15) * abs(old)
            if not abs(new - old) <= allowed:
                wrong.append(f"{name}, column {i + 1}: {new} but README has {old}")
    if wrong:
        sys.exit("\n".join(f"error: {one}" for one in wrong))
    print(f"the table is README's: {len(found)} rows")


if __name__ == "__main__":
    main(*sys.argv[1:])
