"""RIRs as files that other programs read: SOFA, sound files with a table, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haa_peft.commands.outputs import beside, check_writable
from haa_peft.errors import InputError

if TYPE_CHECKING:
    from haa_peft.exporting.responses import Responses

ENDINGS = (".sofa", ".npz")


def check_target(out: Path) -> None:
    """Raise ``InputError`` now if :func:`export` would refuse to write there later."""
    kind = out.suffix.lower()
    if kind not in (*ENDINGS, ""):
        raise InputError(f"--out is {str(out)!r} but must end in {', '.join(ENDINGS)}, or be a folder for WAV files")
    if kind == ".sofa":
        from haa_peft.environment import package

        package("sofar", "a SOFA file", "import")
    if not kind and out.exists():
        raise InputError(f"{out}: exists already; remove it or give another --out")
    check_writable(out)


def export(responses: Responses, out: Path) -> None:
    """Write RIRs as a ``.sofa`` or ``.npz`` file, or as a folder of WAV files with ``positions.csv``.

    They are written whole or not at all; ``haa-peft import`` reads each back.

    Parameters
    ----------
    responses : what is written; float32 in all formats, in units of the measurements.
    out : the file, or the folder, which must not exist.

    Raises
    ------
    InputError
        For another ending, or where it cannot be written.
    """
    check_target(out)
    with beside(out) as place:
        if out.suffix.lower() == ".sofa":
            from haa_peft.exporting.sofa import write_sofa

            write_sofa(responses, place)
        elif out.suffix.lower() == ".npz":
            from haa_peft.exporting.sounds import write_arrays

            write_arrays(responses, place)
        else:
            from haa_peft.exporting.sounds import write_sounds

            write_sounds(responses, place)
