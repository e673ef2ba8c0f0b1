"""The bench of faults, on few rooms."""

import json
import runpy
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "check_faults.py"


@pytest.mark.slow
def test_faults_are_found_and_sound_rooms_are_not_accused(monkeypatch, tmp_path, capsys):
    report = tmp_path / "faults.json"
    monkeypatch.setattr(sys, "argv", ["check_faults.py", "--each", "1", "--sound", "14", "--json", str(report)])
    runpy.run_path(str(RECIPE), run_name="__main__")
    found = json.loads(report.read_text())
    assert found["faults"] == 39
    assert found["found"] >= 38
    assert found["accused"] == []
    assert "faults found and named" in capsys.readouterr().out
