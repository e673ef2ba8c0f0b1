"""What commands let the package say, and how they end: as they should, or with one line of what went wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from haa_peft.environment import EnvironmentProblem, loading
from haa_peft.errors import InputError


@contextmanager
def command(if_interrupted: str = "") -> Iterator[None]:
    """Run a command inside the block: bad input ends it with one line and status 2, an interruption with 130.

    Another package that does not load is bad input too (:mod:`haa_peft.environment`). Of several processes the first
    one speaks; it prints what the package logs. ``if_interrupted`` says how to go on. SIGTERM, as launchers send it
    when another process has died, ends it with one line and status 143.
    """
    log, notes = logging.getLogger("haa_peft"), _Notes(logging.INFO)
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(notes)
    try:
        with loading(), _terminated(if_interrupted):
            yield
    except (InputError, EnvironmentProblem) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        print("\ninterrupted" + (f": {if_interrupted}" if if_interrupted else ""), file=sys.stderr)
        sys.exit(130)
    finally:
        log.removeHandler(notes)
        log.setLevel(level)


@contextmanager
def quiet(log: str) -> Iterator[None]:
    """Inside the block a part of the package, by its logger's name, has nothing to say but warnings."""
    logger = logging.getLogger(log)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _terminated(how_to_go_on: str) -> Iterator[None]:
    """Inside the block SIGTERM ends the process with a line, and so does the loss of another process."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if _is_first():
            lost = "; if another process of the launch died, its end is told below" if "RANK" in os.environ else ""
            print("\nterminated" + (f": {how_to_go_on}" if how_to_go_on else "") + lost, file=sys.stderr)
        sys.exit(143)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # in another thread than the main one
        yield
        return
    try:
        yield
    except RuntimeError as error:  # the backend may notice it before the launcher
        if "RANK" not in os.environ or "peer" not in str(error):
            raise
        end()
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_first() -> bool:
    """Whether no process of the same launch on this machine with a lower rank lives."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        return True
    import psutil

    launcher = psutil.Process().parent()
    for other in [] if launcher is None else launcher.children():
        with suppress(psutil.Error, ValueError):
            if int(other.environ().get("RANK", rank)) < rank:
                return False
    return True


class _Notes(logging.Handler):
    """Prints what the package has to say, of several processes the first one's."""

    def emit(self, record: logging.LogRecord) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(record.getMessage())
