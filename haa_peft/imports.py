"""Importing packages that import more than is needed here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def broken_torchaudio_hidden() -> Iterator[None]:
    """Inside the block, a torchaudio that does not load counts as not installed.

    transformers, and with it peft, imports torchaudio if that is installed. One made for another torch than the one
    beside it raises as it is imported, and nothing here needs it.
    """
    try:
        import torchaudio  # noqa: F401
    except ModuleNotFoundError:
        yield
    except (ImportError, OSError, RuntimeError):  # its compiled part is of another release
        sys.modules["torchaudio"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules["torchaudio"]
    else:
        yield
