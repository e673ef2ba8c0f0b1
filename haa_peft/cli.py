"""The ``haa-peft`` command; :mod:`haa_peft.commands` has its verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from haa_peft.commands import (
    adapt,
    adapters,
    download,
    evaluate,
    geometry,
    hub,
    import_,
    predict,
    pretrain,
    study,
    suggest,
)
from haa_peft.commands import map as map_
from haa_peft.commands.parser import Parser, say_new_name
from haa_peft.errors import command

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
HINTS = {"adapt": adapt.IF_INTERRUPTED,
         "push": "the same command goes on where it stopped",
         "pull": "the same command goes on where it stopped",
         "study": "the same command goes on where it stopped"}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run it; bad input gives one line and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in OLD_NAMES:
        new = OLD_NAMES[given[0]]
        say_new_name(f"haa-peft {given[0]}", f"haa-peft {' '.join(new)}")
        given[:1] = new
    args = make_parser().parse_args(given)
    with command(HINTS.get(given[0], "")):
        args.command(args)


def make_parser() -> Parser:
    """The parser of all verbs, in the order in which they are used."""
    parser = Parser(
        prog="haa-peft",
        description="Per-room adapters for xRIR.",
        example="haa-peft adapt path/to/hallwayPanel1",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for verb in (adapt, evaluate, predict, map_, suggest, adapters, import_, geometry, study, pretrain, download, hub):
        verb.add(commands)
    return parser


if __name__ == "__main__":
    main()
