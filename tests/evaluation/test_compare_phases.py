import json
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_phases.py"


@pytest.mark.slow
def test_the_recipe_tells_reconstruction_from_prediction(simulated_corpus, tiny_backbone_file, tmp_path):
    report = tmp_path / "phases.json"
    options = ["--corpus", simulated_corpus, "--corpus-rooms", "2", "--backbone", tiny_backbone_file, "--json", report]
    done = subprocess.run([sys.executable, RECIPE, *map(str, options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {(row["magnitudes"], row["phase"]): row for row in json.loads(report.read_text())["rows"]}
    assert len(rows) == 4
    assert all(row["positions"] == 8 for row in rows.values())
    for phase in ("references", "random"):  # a reconstruction from what is true costs less than a prediction
        for metric in ("edt_s", "c50_db", "t60_percent"):
            assert rows["true", phase][metric] < 0.5 * rows["predicted", phase][metric]
    assert rows["true", "references"]["c50_db"] != rows["true", "random"]["c50_db"]
    done = subprocess.run([sys.executable, RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, "error: no rooms: name room folders or --corpus")
