"""Names of repositories on the Hub, and of adapters in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from haa_peft.errors import InputError
from haa_peft.store.names import HUB, AdapterName

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"(?:{HUB})?({_PART}/{_PART})(?:@([^@/\s]+))?(?:/(.+))?", re.ASCII)


@dataclass(frozen=True)
class Address:
    """``hf://user/repository[@revision][/room/configuration[@variant]]``.

    Attributes
    ----------
    repository : ``user/repository``.
    revision : branch, tag or commit; the repository's main branch where it is None.
    name : of an adapter in it; None where the whole repository is meant.
    """

    repository: str
    revision: str | None = None
    name: AdapterName | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address, with ``hf://`` or without; a slash in a revision is written ``%2F``.

        Raises
        ------
        InputError
            For anything else.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise InputError(
                f"{text!r} must be user/repository or user/repository@revision, with /room/configuration after it "
                "for one adapter"
            )
        repository, revision, name = match.groups()
        return cls(repository, revision and unquote(revision), None if name is None else AdapterName.parse(name))

    def of(self, name: AdapterName) -> Address:
        """The address of an adapter in the same revision."""
        return replace(self, name=name)

    def at(self, revision: str) -> Address:
        """The same in another revision."""
        return replace(self, revision=revision)

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{HUB}{self.repository}{revision}{f'/{self.name}' if self.name else ''}"
