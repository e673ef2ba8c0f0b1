"""The ``haa-peft`` command and its verbs; :mod:`haa_peft.commands` has those of the core."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from haa_peft.commands.adapt import IF_INTERRUPTED
from haa_peft.commands.ending import command
from haa_peft.commands.parser import Parser, say_new_name
from haa_peft.satellites import has, satellite

CORE = "commands"
VERBS = {
    "commands": {
        "adapt": f"{CORE}.adapt",
        "evaluate": f"{CORE}.evaluate",
        "predict": f"{CORE}.predict",
        "adapters": f"{CORE}.adapters",
        "geometry": "geometry.estimate.command",
        "study": "studies.command",
        "pretrain": "pretraining.command",
    },
    "listen and look": {
        "listen": "page.command",
        "auralise": "listening.command",
        "map": "maps.command",
        "suggest": "maps.command_suggest",
    },
    "bring data": {"import": "importing.command", "download": "downloads.command"},
    "share and serve": {"push": "hub.command", "pull": "hub.command", "serve": "serving.command"},
}
"""Every verb and the module whose ``add`` declares it, in the order of the help; a satellite goes with its verbs."""
OLD_NAMES = {
    "finetune": ["adapt"],
    "render": ["predict"],
    "blend": ["adapters", "blend"],
    "identify": ["adapters", "match"],
    "geometry-from-sound": ["geometry", "--from-sound"],
    "simulate": ["pretrain", "simulate"],
    "corpus-card": ["pretrain", "card"],
    "evaluate-backbone": ["pretrain", "evaluate"],
}
"""Verbs until version 0.1, which still work, and what to say instead."""
HINTS = {"adapt": IF_INTERRUPTED,
         "push": "the same command goes on where it stopped",
         "pull": "the same command goes on where it stopped",
         "study": "the same command goes on where it stopped"}  # fmt: skip
"""What is said where a verb is interrupted."""


class Verbs:
    """Where modules declare verbs, as on argparse's subparsers; gathers their lines of the help."""

    def __init__(self, parser: Parser) -> None:
        self._commands = parser.add_subparsers(
            prog=parser.prog, required=True, metavar="COMMAND", help=argparse.SUPPRESS
        )
        self.lines: dict[str, str] = {}

    def add_parser(self, name: str, *, help: str, **more: Any) -> Parser:
        """A verb's parser; ``help`` is its line, ``more`` what :class:`Parser` takes."""
        self.lines[name] = help
        return self._commands.add_parser(name, **more)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run it; bad input gives one line and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in OLD_NAMES:
        new = OLD_NAMES[given[0]]
        say_new_name(f"haa-peft {given[0]}", f"haa-peft {' '.join(new)}")
        given[:1] = new
    verb = given[0] if given else ""
    with command(HINTS.get(verb, "")):
        for group in VERBS.values():
            if verb in group and _folder(group[verb]) != CORE:
                satellite(_folder(group[verb]), f"haa-peft {verb}")
        args = make_parser().parse_args(given)
        args.command(args)


def make_parser() -> Parser:
    """The parser of all verbs, but for those of satellites that are not there."""
    parser = Parser(
        prog="haa-peft",
        usage="haa-peft COMMAND ...",
        example="haa-peft adapt path/to/hallwayPanel1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs, said = Verbs(parser), ["Per-room adapters for xRIR."]
    for title, group in VERBS.items():
        for module in dict.fromkeys(group.values()):
            if _folder(module) == CORE or has(_folder(module)):
                import_module(f"haa_peft.{module}").add(verbs)
        shown = [f"  {verb:<10} {verbs.lines[verb]}" for verb in group if verb in verbs.lines]
        said += ["", f"{title}:", *shown] if shown else []
    parser.description = "\n".join(said)
    return parser


def _folder(module: str) -> str:
    return module.rpartition(".")[0]


if __name__ == "__main__":
    main()
