import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RECIPE = Path(__file__).parents[1] / "recipes" / "benchmark.py"


@pytest.mark.slow
def test_the_recipe_runs_on_the_bundled_backbone(tmp_path):
    report = tmp_path / "benchmark.json"
    options = ["--sizes", "small", "--devices", "cpu", "--rounds", "1", "--parts", "swaps", "--json", str(report)]
    done = subprocess.run([sys.executable, RECIPE, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text())["results"][0]["rows"]
    assert rows["lora loaded"]["milliseconds"] < rows["lora from disk"]["milliseconds"]
    assert "| lora from disk" in done.stdout


def test_torchaudio_that_does_not_load_ends_it_at_once(broken_torchaudio):
    done = subprocess.run([sys.executable, RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"torchaudio {broken_torchaudio} does not load beside torch {torch.__version__}" in done.stderr
    assert 'pip install "haa-peft[torchaudio]"' in done.stderr
