"""Rooms from what people have: SOFA files, folders of sound files, arrays of MATLAB and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haa_peft.importing.wanted import Wanted


def import_room(sources: Sequence[Path], out: Path, wanted: Wanted, *, dry_run: bool = False) -> list[str]:
    """Read measurements, check them and write them as a room folder; lines that say what was found and done.

    Parameters
    ----------
    sources : a SOFA file, a folder or several sound files, a ``.mat``, ``.npz`` or ``.npy`` file.
    out : the room folder, which must not exist; its name and its parent's are those of configuration and room.
    wanted : what the source does not say, and what to do with what it says.
    dry_run : write nothing.

    Raises
    ------
    InputError
        When something is missing, wrong or ambiguous; nothing is written then.
    """
    from haa_peft.importing.room import make_rooms

    return make_rooms(sources, out, wanted, dry_run=dry_run)
