"""Run the notebooks in docs/notebooks: print what they print, keep the pictures that they draw, for docs/notebooks.md.

    python recipes/draw_notebooks.py --out docs/pictures

Writes NOTEBOOK-1.png, NOTEBOOK-2.png and so on; the notebooks stay as they are, without outputs.
Some minutes on one core. Needs `pip install "haa-peft[notebooks]"`.
"""

import argparse
import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haa_peft.commands.ending import command
from haa_peft.errors import InputError

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the pictures")
    out = parser.parse_args().out
    if not out.is_dir():
        raise InputError(f"--out is {str(out)!r} but must be a folder that exists")
    from haa_peft.files import write_atomically

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.monotonic()
        notebook = run(path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s", printed(notebook), sep="\n")
        for number, picture in enumerate(pictures(notebook), 1):
            file = out / f"{path.stem.replace('_', '-')}-{number}.png"
            write_atomically(file, picture)
            print(file)


def run(path: Path, folder: Path | None = None, cells: Mapping[str, str] | None = None) -> Any:
    """A notebook with its outputs; raises nbclient's ``CellExecutionError`` if a cell fails.

    Parameters
    ----------
    path : of the notebook.
    folder : where it runs; its own unless given.
    cells : code, by the id of the cell that it replaces.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = (cells or {}).get(cell.id, cell.source)
    return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder or path.parent)}}).execute()


def outputs(notebook: Any, kind: str) -> list[str]:
    """What its cells gave of a MIME type, in order."""
    every = (one.get("data", {}) for cell in notebook.cells for one in cell.get("outputs", []))
    return [data[kind] for data in every if kind in data]


def printed(notebook: Any) -> str:
    """What its cells printed, and their tables, in order."""
    every = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    texts = (
        one.get("text") or one.get("data", {}).get("text/markdown") for one in every if one.get("name") != "stderr"
    )
    return "\n".join(text.rstrip("\n") for text in texts if text)


def pictures(notebook: Any) -> list[bytes]:
    """PNG files that its cells drew."""
    return [base64.b64decode(one) for one in outputs(notebook, "image/png")]


if __name__ == "__main__":
    with command():
        main()
