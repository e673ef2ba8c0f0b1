"""From a store to the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from haa_peft import __version__
from haa_peft.describing import readme
from haa_peft.errors import InputError
from haa_peft.hub.address import Address
from haa_peft.hub.fetch import fetch_file
from haa_peft.hub.page import LARGEST_PAGE, make_page
from haa_peft.hub.problems import hub, plain_errors
from haa_peft.store.folder import read_files
from haa_peft.store.names import AdapterName
from haa_peft.store.pack import RoomPack
from haa_peft.store.pack_files import from_files
from haa_peft.store.parts import CARD, OPTIONAL, README, reading

AT_ONCE = 50
"""Adapters of a commit, so that an interrupted push goes on near where it stopped."""


class Pushed(NamedTuple):
    """A commit: the adapters in it, and its page."""

    packs: list[RoomPack]
    url: str


def push(store: Path, names: Sequence[AdapterName], address: Address, *, private: bool = False) -> Iterator[Pushed]:
    """Put adapters, and what they lie on top of, into a repository; it is made if it is not there.

    A commit holds them whole or not at all. The repository's README.md gets their errors in its metadata; what people
    wrote there stays.

    Parameters
    ----------
    store, names : where, and which.
    address : the repository, and a branch if not the main one.
    private : whether a new repository is to be seen by its owner alone.

    Raises
    ------
    InputError
        When an adapter is damaged, before anything is sent; where the Hub or the network fails; and for a public
        repository where it should be private.
    """
    names = _with_parents(store, names)
    api = hub().HfApi(library_name="haa_peft", library_version=__version__)
    with plain_errors(address):
        api.create_repo(address.repository, private=private or None, exist_ok=True)
        if private and not api.model_info(address.repository).private:
            raise InputError(
                f"{address.repository} is there already and public; leave out --private or make it private"
            )
        if address.revision:
            api.create_branch(address.repository, branch=address.revision, exist_ok=True)
    rest = iter(names)
    while some := list(islice(rest, AT_ONCE)):
        yield _commit(store, some, address)


def _with_parents(store: Path, names: Sequence[AdapterName]) -> list[AdapterName]:
    """The names and those that they lie on top of, which come first; all of them are read."""
    found: dict[AdapterName, None] = {}
    for name in names:
        chain = [name]
        while (parent := _read(store, chain[-1])[1].parent) and (below := AdapterName.parse(parent[0])) not in chain:
            chain.append(below)
        found.update(dict.fromkeys(reversed(chain)))
    return list(found)


def _read(store: Path, name: AdapterName) -> tuple[dict[str, bytes], RoomPack]:
    files = read_files(store, name)
    pack = from_files(name, files, tensors=False)
    with reading(name, CARD):
        return {**files, README: readme(pack.card).encode()}, pack


def _commit(store: Path, names: Sequence[AdapterName], address: Address) -> Pushed:
    api = hub().HfApi(library_name="haa_peft", library_version=__version__)
    contents: dict[str, bytes] = {}
    packs, stale = [], []
    for name in names:
        files, pack = _read(store, name)
        packs.append(pack)
        contents |= {f"{name}/{file_name}": content for file_name, content in files.items()}
        stale += [f"{name}/{file_name}" for file_name in OPTIONAL if file_name not in files]
    with plain_errors(address):
        head = api.model_info(address.repository, revision=address.revision).sha
        there = {found.path for found in api.get_paths_info(address.repository, [README, *stale], revision=head)}
        before = None
        if README in there:
            path = fetch_file(address.at(head), README, LARGEST_PAGE, bytes.decode)
            before = path.read_text(encoding="utf-8")
        contents[README] = make_page(address, packs, before).encode()
        done = api.create_commit(
            address.repository,
            [
                *(hub().CommitOperationAdd(path, content) for path, content in contents.items()),
                *(hub().CommitOperationDelete(path) for path in stale if path in there),
            ],
            commit_message=f"Add {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
            revision=address.revision,
            parent_commit=head,
        )
    return Pushed(packs, str(done.commit_url))
