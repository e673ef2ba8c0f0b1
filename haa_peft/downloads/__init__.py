"""Fetching measured rooms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def download(dataset: str, configurations: Sequence[str], folder: Path) -> list[Path]:
    """Fetch configurations of a data set (``haa``) that are not in ``folder`` yet; all of them if none is named.

    Returns the room folders. Raises ``InputError`` if there is no such data set or configuration, the record cannot be
    reached or the folder cannot be written.
    """
    from haa_peft.downloads.haa import download_haa
    from haa_peft.errors import InputError

    if dataset != "haa":
        raise InputError(f"{dataset}: no such data set; must be haa")
    return download_haa(configurations, folder)
