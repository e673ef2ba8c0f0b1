import json
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_phases.py"


def test_a_better_phase_costs_less_from_true_magnitudes(simulated_corpus, tiny_backbone_file, tmp_path):
    report = tmp_path / "phases.json"
    options = ["--corpus", simulated_corpus, "--corpus-rooms", "2", "--backbone", tiny_backbone_file, "--json", report]
    done = subprocess.run([sys.executable, RECIPE, *map(str, options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {(row["magnitudes"], row["phase"]): row for row in json.loads(report.read_text())["rows"]}
    assert len(rows) == 4
    assert all(row["positions"] == 8 for row in rows.values())
    for metric in ("c50_db", "t60_percent", "t60_30_percent"):
        assert rows["true", "references"][metric] < rows["true", "random"][metric]
    done = subprocess.run([sys.executable, RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, "error: no rooms: name room folders or --corpus")
