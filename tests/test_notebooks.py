import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from draw_notebooks import NOTEBOOKS, outputs, pictures, run

from haa_peft.adapted_room import LEVELS_ALONE

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
DECLARED = {"haa_peft", "numpy", "soundfile", "matplotlib", "IPython"}


def code(path: Path) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def rows(table: str) -> dict[str, list[float]]:
    """Numbers of a table that report_table made, by predictor."""
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {name.strip(): [float(cell) for cell in cells] for name, *cells in lines[1:]}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs_and_import_what_is_declared(path):
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    python = "\n".join(line for cell in code(path) for line in cell.splitlines() if not line.startswith("!"))
    for node in ast.walk(ast.parse(python)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= DECLARED | {"os", "shutil", "tempfile", "pathlib"}


@pytest.fixture
def notebook(request, monkeypatch):
    pytest.importorskip("nbclient", reason='notebooks need `pip install "haa-peft[notebooks]"`')
    pytest.importorskip("ipykernel", reason='notebooks need `pip install "haa-peft[notebooks]"`')
    monkeypatch.delenv("HAA_PEFT_STORE", raising=False)
    return run(NOTEBOOKS / f"{request.param}.ipynb")


def printed(notebook) -> str:
    streams = (one for cell in notebook.cells for one in cell.get("outputs", []) if one["output_type"] == "stream")
    return "".join(one["text"] for one in streams)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["first_adapter"], indirect=True)
def test_a_first_adapter(notebook):
    (table,) = outputs(notebook, "text/markdown")
    errors = rows(table)
    assert errors["classroom-twin/base"][0] < min(errors["nearest"][0], errors["backbone"][0])
    assert len(pictures(notebook)) == 2
    clarity = [float(value) for value in re.findall(r"C50 +(-?[\d.]+) dB", printed(notebook))]
    assert len(clarity) == 3
    assert clarity[2] > max(clarity[:2])  # the dampened room is the clearest


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["your_own_measurements"], indirect=True)
def test_measurements_of_ones_own(notebook):
    text = printed(notebook)
    (table,) = outputs(notebook, "text/markdown")
    assert rows(table)["studio/base"][0] < rows(table)["nearest"][0]
    assert LEVELS_ALONE in rows(table)
    assert "60 RIRs" in text
    assert "broken" in text
    assert "48000 Hz" in text
    assert len(pictures(notebook)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["base_and_variations"], indirect=True)
def test_variations_are_heard(notebook):
    tables = outputs(notebook, "text/markdown")
    cold, warm = (list(rows(table).values())[-1] for table in tables)
    assert warm[0] < cold[0]
    assert len([one for one in outputs(notebook, "text/html") if "audio/wav" in one]) == 3
    assert len(pictures(notebook)) == 2
    assert np.isfinite([*cold, *warm]).all()
