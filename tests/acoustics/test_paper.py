import json

import numpy as np
import pytest

from haa_peft.acoustics.paper import envelope_error, paper_metrics
from tests.conftest import PARITY

RIRS = np.load(PARITY / "metrics_case_a.npz")["rirs"]
PUBLISHED = json.loads((PARITY / "metrics_case_a.json").read_text())


@pytest.mark.parametrize(
    ("ours", "published"),
    [("edt_s", "edt"), ("c50_db", "c50"), ("t60_20_s", "t60_from_t20"), ("t60_30_s", "t60_from_t30")],
)
def test_metrics_reproduce_the_published_code(ours, published):
    expected = [row[published] for row in PUBLISHED["metrics"]]
    np.testing.assert_allclose(paper_metrics(RIRS, 22_050)[ours], expected, rtol=1e-6)


def test_envelope_error_reproduces_the_published_code():
    expected = np.array(PUBLISHED["env_percent_pred_i_gt_j"])
    rows = [envelope_error(np.repeat(RIRS[i : i + 1], len(RIRS), axis=0), RIRS) for i in range(len(RIRS))]
    np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-12)


def test_what_the_decay_does_not_reach_is_nan():
    impulse = np.zeros((2, 9600))
    impulse[0, 100] = 1.0
    metrics = paper_metrics(impulse, 22_050)
    assert all(np.isnan(values).all() for values in metrics.values())
