"""From the Hub into a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from haa_peft.describing import readme
from haa_peft.errors import InputError
from haa_peft.hub.address import Address
from haa_peft.hub.fetch import fetch
from haa_peft.hub.problems import HubError, hub, plain_errors
from haa_peft.store.folder import read_files, write_files
from haa_peft.store.names import AdapterName
from haa_peft.store.pack_files import from_files
from haa_peft.store.parts import CARD, README, reading


class Pulled(NamedTuple):
    """What became of an adapter: ``stored``, ``already there``, or the ``problem`` for which it was left out."""

    name: AdapterName
    outcome: str
    problem: InputError | None = None


def list_adapters(address: Address) -> list[AdapterName]:
    """Names of the adapters of a repository, sorted; the one that the address names, if it names one.

    Raises
    ------
    InputError
        When the Hub cannot be asked, or the repository holds none.
    """
    if address.name is not None:
        return [address.name]
    names = set()
    with plain_errors(address):
        for entry in hub().HfApi().list_repo_tree(address.repository, recursive=True, revision=address.revision):
            room, _, rest = entry.path.partition("/")
            configuration, _, file_name = rest.partition("/")
            if file_name == CARD:
                try:
                    names.add(AdapterName.parse(f"{room}/{configuration}"))
                except InputError:
                    continue  # another folder with a file of that name
    if not names:
        raise InputError(f"{address} holds no adapters; they lie in folders room/configuration")
    return sorted(names, key=str)


def pull(address: Address, store: Path, *, replace: bool = False) -> Iterator[Pulled]:
    """Store adapters of a repository, and what they lie on top of, one after the other, all of the same commit.

    Each is checked first and written whole or not at all. What is in the store and differs is kept, unless ``replace``.

    Raises
    ------
    InputError
        Where the Hub, the network or the disk fails; what was stored until then stays.
    """
    done: set[AdapterName] = set()
    for name in list_adapters(address):
        if name in done:
            continue
        try:
            snapshot, names = fetch(address.of(name))
            address = address.at(snapshot.name)
            for one in reversed(names):  # what lies below first
                if one not in done:
                    yield Pulled(one, _store(snapshot, one, store, replace))
                    done.add(one)
        except HubError:
            raise
        except InputError as error:
            yield Pulled(name, "left out", error)


def _store(snapshot: Path, name: AdapterName, store: Path, replace: bool) -> str:
    files = read_files(snapshot, name)
    card = from_files(name, files, tensors=False).card
    with reading(name, CARD):
        page = readme(card)
    if name.folder(store).exists() and not replace:
        try:
            same = read_files(store, name) == files
        except InputError:
            same = False
        if same:
            return "already there"
        raise InputError(f"{name}: another adapter of this name is in store {store}; give --replace or another --store")
    try:
        write_files(store, name, {**files, README: page.encode()})
    except InputError as error:
        raise HubError(str(error)) from None
    return "stored"
