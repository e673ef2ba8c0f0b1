"""What is imported only when it is asked for, and packages that do not load."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from haa_peft.errors import InputError
from haa_peft.satellites import SATELLITES, has, missing, satellite


class EnvironmentProblem(ImportError):
    """An installed package does not load, or one is missing; the message names it, its version and what mends it.

    It is no ``InputError``, so that nothing takes it for a damaged adapter; commands end with it in the same way.
    """


def lazy(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: attributes by name, from modules imported when one is asked for."""

    def getattribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with loading():
            return getattr(importlib.import_module(modules[name]), name)

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *modules})

    return getattribute, names


@contextmanager
def loading() -> Iterator[None]:
    """Raise :class:`EnvironmentProblem` where a package fails to import, ``InputError`` where a satellite does."""
    try:
        yield
    except (InputError, EnvironmentProblem):
        raise
    except Exception as error:
        gone = (getattr(error, "name", None) or "").removeprefix("haa_peft.")
        if isinstance(error, ModuleNotFoundError) and gone in SATELLITES:
            raise InputError(missing(gone, "this command")) from None
        problem = satellite("diagnosis", "this error").explain(error) if has("diagnosis") else None
        if problem is None:
            raise
        raise EnvironmentProblem(problem) from error


def package(name: str, what: str, extra: str = "geometry") -> ModuleType:
    """Import an optional package; raises ``InputError``, which says what to install, where it is not there."""
    missing = name.partition(".")[0]
    try:
        with loading() if find_spec(missing) else nullcontext():
            return importlib.import_module(name)
    except ModuleNotFoundError:
        raise InputError(f'{what} needs the package {missing}; pip install "haa-peft[{extra}]"') from None


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
