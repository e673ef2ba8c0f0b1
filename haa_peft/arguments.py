"""Arguments of all commands: an example before the help, one line for what is wrong, flags from settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from haa_peft.settings import KINDS, fields, kind


class Parser(argparse.ArgumentParser):
    """Argparse whose help begins with ``example``, and whose errors are one line."""

    def __init__(self, *args: Any, example: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.example = example
        for what in (int, float):
            self.register("type", what, _number(what))

    def format_help(self) -> str:
        """The example, then what argparse writes."""
        return f"example: {self.example}\n\n{super().format_help()}"

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end with status 2."""
        message = message.removeprefix("argument ").replace(": is ", " is ", 1)
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def add_setting(parser: Any, settings: type, name: str, **more: Any) -> argparse.Action:
    """The flag of a field of a dataclass; ``more`` is for argparse where a flag is not as the field says."""
    field = fields(settings)[name]
    flag, what, about = "--" + name.replace("_", "-"), kind(field), field.metadata["about"]
    if what == "bool":
        return parser.add_argument(flag, action="store_true", help=about)
    shown = "" if field.default is None or "default" in more else " (default: %(default)s)"
    given = {"default": field.default, "help": about + shown, "choices": field.metadata["choices"] or None, **more}
    if what in KINDS and "type" not in given:
        given["type"] = KINDS[what][0] if what == "int" else {"float": float}.get(what, str)
    return parser.add_argument(flag, **given)


def add_old_name(parser: Any, old: str, new: argparse.Action) -> None:
    """A flag by its old name: it works, is not in the help and says the new one."""
    parser.add_argument(old, action=_OldName, dest=new.dest, nargs=new.nargs, type=new.type, new=new)


class _OldName(argparse.Action):
    def __init__(self, option_strings: Any, dest: str, *, new: argparse.Action, nargs: Any, type: Any) -> None:
        super().__init__(
            option_strings, dest, nargs=nargs, type=type, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        self.new = new

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        say_new_name(str(option_string), self.new.option_strings[0])
        self.new(parser, namespace, values, option_string)


def say_new_name(old: str, new: str) -> None:
    """A line for people; nothing that reads the output is in its way."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {old} is called {new} now; the old name goes with the next release", file=sys.stderr)


def _number(what: Callable[[str], Any]) -> Callable[[str], Any]:
    """``int`` or ``float``, with an error that says what was given."""
    called = KINDS[getattr(what, "__name__", "")][1]

    def parse(text: str) -> Any:
        try:
            return what(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"is {text!r} but must be {called}") from None

    return parse
