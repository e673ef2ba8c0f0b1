"""Geometry beyond planes: from meshes, depth panoramas, photographs, echoes, a network; and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haa_peft.geometry.panorama import DepthMap
    from haa_peft.geometry.sources import Known


def estimate(source: str, entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """The depth panorama (256, 512) that a ``geometry`` entry describes.

    Parameters
    ----------
    source : the key that says how: ``mesh``, ``depth``, ``rgb``, ``sound`` or ``constant``.
    entry : with that key; its others say more.
    folder : that file names are relative to.
    known : receiver, positions and direct sound, which what is read must not contradict.
    where : what an error begins with.

    Raises
    ------
    InputError
        When the entry or its file is wrong, or contradicts what is known.
    """
    from haa_peft.geometry.estimate.dispatch import read_source

    return read_source(source, entry, folder, known, where)
