import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from haa_peft.geometry.estimate.shoebox import ShoeboxEstimate
from haa_peft.geometry.estimate.tables import (
    DEPTHS,
    compare_with_box,
    depth_errors,
    depth_table,
    summary,
    summary_table,
)
from haa_peft.geometry.surfaces import Surfaces

RECIPES = Path(__file__).parents[3] / "recipes"


def test_errors_and_shares():
    offsets = np.array([0.0, 4.1, 0.0, 5.0, -0.2, 3.0])  # y high is 1 m out, the floor 20 cm
    width = np.array([0.05, 0.2, 0.05, 0.1, 0.3, 0.1])
    confident = np.array([True, True, True, True, False, True])
    estimate = ShoeboxEstimate(
        offsets, offsets - width, offsets + width, width / 2, np.ones(6), confident, np.zeros(3, bool), None, 12
    )
    row = compare_with_box(estimate, np.zeros(3), np.array([4.0, 6.0, 3.0]))
    np.testing.assert_allclose(row["size_error_m"], [0.1, 1.0, 0.2])
    np.testing.assert_allclose(row["size_error"], [0.1 / 4, 1 / 6, 0.2 / 3])
    assert row["inside_interval"] == [True, True, True, False, True, True]
    about = summary([row])
    assert about["median_size_error"] == pytest.approx(0.2 / 3)
    assert about["size_within_50_cm"] == pytest.approx(2 / 3)
    assert about["walls_within_25_cm"] == about["walls_in_interval"] == pytest.approx(5 / 6)
    assert about["confident_within_25_cm"] == pytest.approx(4 / 5)
    assert "| 6.67 |" in " ".join(summary_table({"some": about}).split())
    np.testing.assert_allclose(estimate.size_interval[0], [4.1 - np.hypot(0.2, 0.05), 4.1 + np.hypot(0.05, 0.2)])


def test_depths_are_compared_over_the_sphere():
    size, receiver = np.array([6.0, 6.0, 6.0]), np.full(3, 3.0)
    positions = np.random.default_rng(0).uniform(1, 5, (12, 3))
    offsets = np.array([-3.0, 9.0, -3.0, 9.0, -3.0, 9.0])  # twice as far in every direction
    zeros = np.zeros(6)
    estimate = ShoeboxEstimate(offsets, offsets, offsets, zeros, zeros, zeros > 1, np.zeros(3, bool), None, 12)
    rirs = np.random.default_rng(1).standard_normal((12, 9600))
    found = depth_errors(rirs, positions, receiver, estimate, Surfaces.shoebox(size))
    assert found["shoebox"] == pytest.approx(np.log(2), rel=1e-6)
    # the mean of log(r / 3 m) over a cube, by the mean over one of its faces
    y, z = (np.mgrid[0:1000, 0:1000] + 0.5) / 500 - 1
    away = np.sqrt(1 + y**2 + z**2)
    assert found["constant"] == pytest.approx(float((np.log(away) / away**3).sum() / (1 / away**3).sum()), abs=1e-4)
    table = depth_table({"some": [{"depth_error": found}]})
    assert "| 100.0 |" in " ".join(table.split())


def test_the_recipe_writes_what_it_prints(tmp_path):
    options = ["--boxes", "0", "--image-sources", "1", "--any-plan", "1", "--json", tmp_path / "sound.json"]
    command = [sys.executable, RECIPES / "geometry_from_sound.py", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "sound.json").read_text())
    (room,) = written["rooms"]["image sources"]
    assert written["floor"] == {"image sources": summary([room])}
    (other,) = written["rooms"]["simulated, every plan"]
    assert other["room"] == "1000/0"
    assert set(other["depth_error"]) == set(DEPTHS)
    assert (tmp_path / "sound.md").read_text() in done.stdout
    assert "| image sources |" in done.stdout.replace("  ", "")


def test_kept_results_hold_what_is_claimed():
    kept = json.loads((RECIPES / "results" / "geometry-from-sound.json").read_text())
    rows = [row for group in ("simulated as the corpus", "image sources") for row in kept["rooms"][group]]
    assert len(rows) >= 100
    assert kept["seed"] >= 1000
    for group, about in kept["floor"].items():
        assert summary(kept["rooms"][group]) == pytest.approx(about, nan_ok=True)
    assert np.median([row["size_error"] for row in rows]) < 0.1
    depth = {
        group: {name: np.mean([row["depth_error"][name] for row in rooms]) for name in DEPTHS}
        for group, rooms in kept["rooms"].items()
    }
    assert depth["R3VIVAL"]["shoebox"] < 0.05
    for room in kept["rooms"]["R3VIVAL"]:
        assert np.median(room["size_error_m"]) < 0.5
    for group in ("simulated as the corpus", "image sources", "simulated, every plan"):
        assert depth[group]["network"] < 0.6 * depth[group]["box around positions"]
