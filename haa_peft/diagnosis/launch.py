"""How many processes the launch of this one was asked for, which accelerate does not say."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path


def processes_asked() -> int:
    """Processes that an ``accelerate launch`` above this one was asked for, 1 if there is none.

    accelerate drops the number without a trace where it starts a single process, so its command line is read.
    """
    import psutil

    for parent in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            asked = processes_in_command(parent.cmdline())
            if asked is not None:
                return asked
    return 1


def processes_in_command(command: Sequence[str]) -> int | None:
    """Number of processes that an ``accelerate launch`` command line asks for; None for any other command."""
    starts = ("accelerate-launch", str(Path("accelerate", "commands", "launch.py")))
    launches = [i for i, word in enumerate(command[:4]) if word == "launch" or word.endswith(starts)]
    if not launches or not any("accelerate" in word for word in command[:3]):
        return None
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    with contextlib.redirect_stderr(io.StringIO()):
        try:
            arguments, _ = launch_command_parser().parse_known_args(command[launches[0] + 1 :])
        except SystemExit:
            return None
    if arguments.num_processes is not None:
        return int(arguments.num_processes)
    config_file = arguments.config_file or default_config_file
    if Path(config_file).is_file():
        return int(load_config_from_file(config_file).num_processes)
    return 1
