"""Lines of the core, and what they are: code with comments, docstrings, empty ones.

python .ci/count.py
"""

import ast
from pathlib import Path

from haa_peft.satellites import SATELLITES

PACKAGE = Path(__file__).parents[1] / "haa_peft"
OUTSIDE = [*(PACKAGE / name.replace(".", "/") for name in SATELLITES), PACKAGE / "commands", PACKAGE / "cli.py"]
"""Satellites and the command line."""


def count(source: str) -> tuple[int, int, int]:
    """Code, docstrings and empty lines of a module."""
    lines, said = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    empty = {number for number, line in enumerate(lines, 1) if not line.strip()} - said
    return len(lines) - len(said) - len(empty), len(said), len(empty)


if __name__ == "__main__":
    paths = [path for path in PACKAGE.rglob("*.py") if not any(part in (path, *path.parents) for part in OUTSIDE)]
    code, said, empty = (sum(kind) for kind in zip(*(count(path.read_text()) for path in paths), strict=True))
    print(f"{code + said + empty} lines: {code} of code, {said} of docstrings, {empty} empty")
