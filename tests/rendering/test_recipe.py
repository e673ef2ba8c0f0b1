import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "full_length.py"


@pytest.mark.slow
def test_the_recipe_writes_errors_and_likeness(room_folder, tiny_backbone_file, tmp_path):
    options = [room_folder, "--backbone", tiny_backbone_file, "--seeds", "4", "--out", tmp_path / "page"]
    done = subprocess.run([sys.executable, RECIPE, *map(str, options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "page" / "full-length.json").read_text())
    assert {row["predictor"] for row in found["errors"]} >= {"nearest", "full, references", "full, diffuse"}
    own = {row["predictor"]: row for row in found["errors"] if row["band"] == "1000"}
    assert own["full, diffuse"]["positions"] == 8
    assert own["full, diffuse"]["t30_s"] < 15  # the room's tail is an exponential of 0.3 s
    alike = np.array([row["full, diffuse"] - row["sinc(kd)"] for row in found["likeness"]])
    assert np.abs(alike).mean() < 0.15
    page = (tmp_path / "page" / "README.md").read_text()
    assert "12 measurements at random, seeds 4, K = 8" in page
    assert (tmp_path / "page" / "coherence.png").stat().st_size > 5000
    done = subprocess.run([sys.executable, RECIPE, "--out", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, "error: no rooms: name room folders or --simulated")
