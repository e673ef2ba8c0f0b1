"""What is wrong with an installed package that does not load, in one line; a launch that gave too few processes."""

from __future__ import annotations

import re
import sys
import traceback
from importlib import metadata

from haa_peft.diagnosis.launch import processes_asked as processes_asked

PROJECT = "haa-peft"
OWN = ("haa_peft", "__main__")
BESIDE = ("torch", "numpy")
"""What compiled packages are built for, and break beside another version of."""


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
    ours = _requirements(PROJECT)
    if version_of(other) is None and isinstance(error, ModuleNotFoundError):
        if package == other and other not in ours:
            return None
        whose = PROJECT if package == other else f"{package} {version_of(package)}"
        return f"{whose} needs the package {other}, which is not installed; `pip install {ours.get(other, other)}`"
    if version_of(package) is None:
        return None
    built_for = "numpy" if "numpy" in str(error).lower() else next(filter(_requirements(package).get, BESIDE), "")
    beside = other if other != package and version_of(other) is not None else built_for
    beside = "" if beside == package else beside
    where = f" beside {beside} {version_of(beside)}" if beside else ""
    reason = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(error).__name__}: {reason:.200}"
    mend = f"{PROJECT} does not need it: `pip uninstall {package}`, or install its build for this torch"
    if package in ours or beside != "torch":
        both = [_wanted(each, ours) for each in (package, *([beside] if beside and beside not in BESIDE else []))]
        index = ", with the --index-url that this build came from," if any("+" in each for each in both) else ""
        mend = f"`pip install --force-reinstall {' '.join(both)}`{index} mends it"
    return f"{package} {version_of(package)} does not load{where} ({said}){_outside({package, beside})}; {mend}"


def _wanted(package: str, ours: dict[str, str]) -> str:
    """What pip is to install in place of a package: the same build, such as ``torch==2.13.0+cpu``, if that goes."""
    version = version_of(package) or ""
    return f"{package}=={version}" if "+" in version and not _outside({package}) else ours.get(package, package)


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _failed(error: BaseException) -> tuple[str, str] | None:
    """The package whose import failed and, where it failed at another one's module or name, that one; both by module.

    That is the last one whose module was being run, and nothing of ours was running inside it.
    """
    running, last = "", ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
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
    if version_of(module) is not None:
        return module
    return next(iter(metadata.packages_distributions().get(module, ())), module)


def _requirements(package: str) -> dict[str, str]:
    """What a package says that it needs, by name, as the command line takes it: ``"torch>=2.8"``."""
    try:
        texts = [text.partition(";")[0].strip() for text in metadata.requires(package) or []]
    except metadata.PackageNotFoundError:
        return {}
    return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower(): f'"{text}"' for text in reversed(texts)}


def _outside(packages: set[str]) -> str:
    """Which of the packages are of versions that haa-peft does not go with."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ""
    wanted = [Requirement(text.strip('"')) for name, text in _requirements(PROJECT).items() if name in packages]
    wrong = [each for each in wanted if not each.specifier.contains(version_of(each.name) or "", prereleases=True)]
    return "".join(sorted(f"; {PROJECT} needs {each.name}{each.specifier}" for each in wrong if version_of(each.name)))
