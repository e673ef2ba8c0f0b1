"""Adapters of the Hub in its own cache, whose snapshots are stores; everything is checked as it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from haa_peft import __version__
from haa_peft.errors import InputError
from haa_peft.files import NotPlainError, read_plain
from haa_peft.hub.address import Address
from haa_peft.hub.problems import HubError, hub, plain_errors
from haa_peft.store.card import NewerCardError, parse_card
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import CARD, LARGEST_BYTES, listed_files, sha256


def locate(address: str) -> tuple[Path, AdapterName]:
    """Have an adapter of the Hub on this machine.

    Parameters
    ----------
    address : as :meth:`~haa_peft.hub.address.Address.parse` takes it, with a name.

    Returns
    -------
    The store that it lies in, and its name there.

    Raises
    ------
    InputError
        Where no adapter is named, it cannot be fetched, or what was fetched is not what its card describes.
    """
    parsed = Address.parse(address)
    if parsed.name is None:
        raise InputError(f"{address} names no adapter; add /room/configuration")
    store, _ = fetch(parsed)
    return store, parsed.name


def pin(address: str) -> tuple[str, str]:
    """As :func:`locate`; the address of the repository at the commit that the revision is now, and the name."""
    store, name = locate(address)
    return str(Address(Address.parse(address).repository, store.name)), str(name)


def fetch(address: Address) -> tuple[Path, list[AdapterName]]:
    """Have an adapter, and what it lies on top of, in the Hub's cache; files that are there are not fetched again.

    Returns
    -------
    The snapshot of the commit, a store, and the names: the adapter, then what lies below it.

    Raises
    ------
    InputError
        As :func:`locate`. Nothing wrong is left in the cache.
    """
    assert address.name is not None
    names = [address.name]
    while True:
        store, card = _fetch_pack(address)
        below = card.get("parent")
        if below is None or AdapterName.parse(below["name"]) in names:
            return store, names
        names.append(AdapterName.parse(below["name"]))
        address = address.at(store.name).of(names[-1])  # of the same commit


def _fetch_pack(address: Address) -> tuple[Path, dict]:
    name, card = address.name, {}
    assert name is not None

    def is_card(content: bytes) -> None:
        card.update(parse_card(name, content))

    path = fetch_file(address, f"{name}/{CARD}", LARGEST_BYTES[CARD], is_card)
    store = path.parents[2]  # snapshots/COMMIT/room/configuration/card.json
    for file_name in listed_files(card):

        def is_described(content: bytes, file_name: str = file_name) -> None:
            if sha256(content) != card["files"].get(file_name):
                raise InputError(
                    f"{address}: {file_name} is not the file that its card describes; "
                    "have it pushed again, or take another revision"
                )

        fetch_file(address.at(store.name), f"{name}/{file_name}", LARGEST_BYTES[file_name], is_described)
    return store, card


def fetch_file(address: Address, path: str, most: int, check: Callable[[bytes], object]) -> Path:
    """Have a file of the Hub in its cache; one that is wrong is removed from there and fetched once more.

    Parameters
    ----------
    address : of the repository and revision.
    path : in the repository.
    most : bytes; no more are fetched.
    check : raises ``InputError`` for content that is wrong.
    """
    problem: Exception | None = None
    for _ in range(2):
        with plain_errors(address):
            found = Path(
                hub().hf_hub_download(
                    address.repository,
                    path,
                    revision=address.revision,
                    tqdm_class=_counting(f"{address}: {path}", most),
                    library_name="haa_peft",
                    library_version=__version__,
                )
            )
            try:
                check(read_plain(found, most))
                return found
            except NewerCardError:
                raise
            except (InputError, NotPlainError) as error:
                problem = error
                found.resolve().unlink(missing_ok=True)
                found.unlink(missing_ok=True)
    raise problem if isinstance(problem, InputError) else InputError(f"{address}: {problem}")


def _counting(what: str, most: int) -> type[tqdm]:
    """A progress bar that shows nothing, and ends a download of more than so many bytes, or more than announced."""

    class Counting(tqdm):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "disable": True})
            self.announced, self.bytes = more.get("total") or most, more.get("initial") or 0
            self.counted = "bar_format" not in more  # as Xet has it, which compares sizes and hashes itself
            if self.announced > most:
                raise InputError(f"{what} has {self.announced} bytes but at most {most} are read; it is no such file")

        def update(self, n: float | None = 1) -> bool | None:
            self.bytes += n or 0
            if self.counted and self.bytes > self.announced:
                raise HubError(f"{what} goes on after the {self.announced} bytes that were announced; run it again")
            return super().update(n)

    return Counting
