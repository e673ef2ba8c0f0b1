"""Arguments of all commands: an example before the help, one line for what is wrong, flags from settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from haa_peft.fields import WORDS, choices, fields, kind


class Parser(argparse.ArgumentParser):
    """Argparse whose help begins with ``example``, and whose errors are one line."""

    def __init__(self, *args: Any, example: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.example = example
        self.old_names: dict[str, str] = {}
        for what in (int, float):
            self.register("type", what, _number(what))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Flags by the names of ``old_names`` work, are not in the help and say the new ones."""
        given = []
        for text in sys.argv[1:] if args is None else args:
            old, equals, value = text.partition("=")
            new = self.old_names.get(old, old)
            if new != old:
                say_new_name(old, new)
            given.append(new + equals + value)
        return super().parse_known_args(given, namespace)

    def format_help(self) -> str:
        """The example, then what argparse writes."""
        return (f"example: {self.example}\n\n" if self.example else "") + super().format_help()

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end with status 2."""
        message = message.removeprefix("argument ").replace(": is ", " is ", 1)
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def add_setting(parser: Any, settings: type, name: str, **more: Any) -> argparse.Action:
    """The flag of a field of a dataclass.

    Parameters
    ----------
    parser : of argparse, or a group of it.
    settings : the dataclass.
    name : of the field.
    **more : for argparse, where a flag is not as the field says.
    """
    field = fields(settings)[name]
    flag, about = "--" + name.replace("_", "-"), field.description or ""
    if kind(field) is bool:
        return parser.add_argument(flag, action="store_true", help=about)
    shown = "" if field.default is None or "default" in more else " (default: %(default)s)"
    given = {"default": field.default, "help": about + shown, "choices": choices(field) or None,
             "type": kind(field) if kind(field) in (int, float) else str, **more}  # fmt: skip
    return parser.add_argument(flag, **given)


def say_new_name(old: str, new: str) -> None:
    """A line for people; nothing that reads the output is in its way."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {old} is called {new} now; the old name goes with the next release", file=sys.stderr)


def _number(what: Callable[[str], Any]) -> Callable[[str], Any]:
    """``int`` or ``float``, with an error that says what was given."""

    def parse(text: str) -> Any:
        try:
            return what(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"is {text!r} but must be {WORDS[what]}") from None

    return parse
