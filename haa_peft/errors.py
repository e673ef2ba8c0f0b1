"""The one error that people see."""

from __future__ import annotations

LONGEST = 300
"""Characters of an error's line."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the value, what is allowed and what to do. Command lines print it
    and exit with status 2; library callers catch it like any ``ValueError``. What a damaged file or a user put into it
    cannot make it longer than ``LONGEST``, nor more than a line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, most: int = LONGEST) -> str:
    """A text without what is no printable character, and without its middle if it is too long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 10 * most])
    return line if len(line) <= most else f"{line[: most * 2 // 3 - 5]} ... {line[len(line) - most // 3 :]}"


def check_seed(seed: int) -> None:
    """Raise ``InputError`` for a seed that random generators do not take."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed} but must be from 0 to {2**32 - 1}")
