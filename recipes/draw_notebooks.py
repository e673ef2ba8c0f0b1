"""Run the notebooks in docs/notebooks and keep the pictures that they draw, for docs/notebooks.md.

    python recipes/draw_notebooks.py --out docs/pictures

Writes NOTEBOOK-1.png, NOTEBOOK-2.png and so on; the notebooks stay as they are, without outputs.
Some minutes on one core. Needs `pip install "haa-peft[notebooks]"`.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

from haa_peft.errors import InputError, command

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the pictures")
    out = parser.parse_args().out
    if not out.is_dir():
        raise InputError(f"--out is {str(out)!r} but must be a folder that exists")
    from haa_peft.files import write_atomically

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for number, picture in enumerate(pictures(run(path)), 1):
            file = out / f"{path.stem.replace('_', '-')}-{number}.png"
            write_atomically(file, picture)
            print(file)


def run(path: Path) -> Any:
    """A notebook with its outputs, run in its own folder; raises nbclient's ``CellExecutionError`` if a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()


def outputs(notebook: Any, kind: str) -> list[str]:
    """What its cells gave of a MIME type, in order."""
    every = (one.get("data", {}) for cell in notebook.cells for one in cell.get("outputs", []))
    return [data[kind] for data in every if kind in data]


def pictures(notebook: Any) -> list[bytes]:
    """PNG files that its cells drew."""
    return [base64.b64decode(one) for one in outputs(notebook, "image/png")]


if __name__ == "__main__":
    with command():
        main()
