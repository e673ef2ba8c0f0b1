"""What is imported only when it is asked for, and what to do about an installed package that does not load."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from haa_peft.errors import InputError

PROJECT = "haa-peft"
OWN = ("haa_peft", "__main__")
BESIDE = ("torch", "numpy")
"""What compiled packages are built for, and break beside another version of."""


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
    """Raise :class:`EnvironmentProblem` where another package fails to import inside the block; else do nothing."""
    try:
        yield
    except (InputError, EnvironmentProblem):
        raise
    except Exception as error:
        problem = explain(error)
        if problem is None:
            raise
        raise EnvironmentProblem(problem) from error


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


def explain(error: BaseException) -> str | None:
    """One line for a failure while another package was imported; None for any other error, such as one of our own."""
    failed = _failed(error)
    while failed is not None:
        optional = isinstance(error.__context__, ModuleNotFoundError)  # tried, and done without
        inner = error.__cause__ or (None if optional else error.__context__)
        found = None if inner is None else _failed(inner)
        if inner is None or found is None:
            break
        error, failed = inner, found
    if failed is None:
        return None
    package, other = map(_distribution, failed)
    if version_of(other) is None and isinstance(error, ModuleNotFoundError):
        if package == other and not any(_name(text) == other for text in _requirements(PROJECT)):
            return None
        whose = PROJECT if package == other else f"{package} {version_of(package)}"
        return f"{whose} needs the package {other}, which is not installed; `pip install {_wanted(other)}`"
    if version_of(package) is None:
        return None
    beside = other if other != package and version_of(other) is not None else _built_for(package, str(error))
    where = f" beside {beside} {version_of(beside)}" if beside else ""
    reason = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {reason:.200}"
    told = f"{package} {version_of(package)} does not load{where} ({said}){_outside({package, beside})}"
    return f"{told}; {_mend(package, beside)}"


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _failed(error: BaseException) -> tuple[str, str] | None:
    """The package whose import failed and, where it failed at another one's module or name, that one; both by module.

    That is the last one whose module was being run, and nothing of ours was running inside it.
    """
    running, last = "", ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        last = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if last in OWN:
            running = ""
        elif frame.f_code.co_name == "<module>" and last != "importlib":
            running = last
    missing = ((error.name if isinstance(error, ImportError) else None) or "").partition(".")[0]
    if running:
        return running, running if missing in ("", *sys.stdlib_module_names) else missing
    # straight from a line of ours: a package that is not there, or one that lacks what its right versions have
    if not missing or missing in OWN or last not in (*OWN, "importlib"):
        return None
    found = _distribution(missing)
    return (missing, missing) if version_of(found) is None or _outside({found}) else None


def _distribution(module: str) -> str:
    """What a package is installed as, by the name that it is imported by; that name if it is not installed."""
    from importlib import metadata

    if version_of(module) is not None:
        return module
    return next(iter(metadata.packages_distributions().get(module, ())), module)


def _built_for(package: str, message: str) -> str:
    """What a package that does not load probably does not fit; empty if nothing."""
    if "numpy" in message.lower() and package != "numpy":
        return "numpy"
    needs = {_name(text) for text in _requirements(package)} - {package}
    return next((name for name in BESIDE if name in needs), "")


def _requirements(package: str) -> list[str]:
    """What a package says that it needs, as ``torch>=2.8`` or ``ray>=2.40; extra == "ray"``."""
    from importlib import metadata

    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found.group().lower() if found else ""


def _wanted(package: str) -> str:
    """A package with the versions that haa-peft goes with, for the command line."""
    for text in _requirements(PROJECT):
        if _name(text) == package.lower():
            return f'"{text.partition(";")[0].strip()}"'
    return package


def _outside(packages: set[str]) -> str:
    """Which of the packages are of versions that haa-peft does not go with."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ""
    told = set()
    for wanted in map(Requirement, _requirements(PROJECT)):
        found = version_of(wanted.name) if wanted.name in packages else None
        if found and not wanted.specifier.contains(found, prereleases=True):
            told.add(f"; {PROJECT} needs {wanted.name}{wanted.specifier}")
    return "".join(sorted(told))


def _mend(package: str, beside: str) -> str:
    needed = {_name(text) for text in _requirements(PROJECT) if "extra ==" not in text}
    if package not in needed and beside == "torch":
        return f"{PROJECT} does not need it: `pip uninstall {package}`, or install its build for this torch"
    both = [package, *([beside] if beside and beside not in BESIDE else [])]
    return f"`pip install --force-reinstall {' '.join(map(_wanted, both))}` mends it"
