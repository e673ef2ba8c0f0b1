"""Geometry from files: meshes and scans, depth panoramas, photographed panoramas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haa_peft.geometry.panorama import DepthMap
    from haa_peft.geometry.sight import Known


def read(entry: Mapping[str, Any], folder: Path, known: Known, where: str) -> DepthMap:
    """The depth panorama that a file gives, as a ``geometry`` entry with ``mesh``, ``depth`` or ``rgb`` names it.

    Parameters
    ----------
    entry : of ``room.json``; its other keys say how the file is to be read.
    folder : that file names are relative to.
    known : receiver, positions and direct sound, which what is read must not contradict.
    where : what an error begins with.

    Raises
    ------
    InputError
        When the entry or its file is wrong, or contradicts what is known.
    """
    if "mesh" in entry:
        from haa_peft.geometry.readers.mesh import read_mesh

        return read_mesh(entry, folder, known, where)
    if "depth" in entry:
        from haa_peft.geometry.readers.depth_file import read_depth_map

        return read_depth_map(entry, folder, known, where)
    from haa_peft.geometry.readers.photo import read_photo

    return read_photo(entry, folder, known, where)
