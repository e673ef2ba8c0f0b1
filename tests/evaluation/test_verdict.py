import json

import numpy as np
import pytest
from scipy import stats

from haa_peft.evaluation.verdict import JUDGED, paired, verdict
from haa_peft.files import nan_to_null

RNG = np.random.default_rng(1)
BASE = RNG.uniform(1.0, 2.0, 24)


def report(**predictors):
    rows = [
        {"predictor": name, "per_position": {metric: np.broadcast_to(errors, 24).tolist() for metric in JUDGED}}
        for name, errors in predictors.items()
    ]
    return {"positions": 24, "split": "test", "rows": rows}


@pytest.mark.parametrize("shift", [-0.3, -0.02, 0.0, 0.05, 0.4])
def test_it_is_students_paired_test(shift):
    errors = BASE + shift + RNG.normal(0, 0.1, 24)
    errors[3] = np.nan
    both = np.isfinite(errors)
    found, expected = paired(errors, BASE), stats.ttest_rel(errors[both], BASE[both])
    assert found.positions == 23
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ratio == pytest.approx(errors[both].mean() / BASE[both].mean())
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(1 + bound / BASE[both].mean() for bound in interval))
    sure = expected.pvalue < 0.05
    assert found.result == (("better" if expected.statistic < 0 else "worse") if sure else "undecided")


def test_chance_is_seldom_called_a_difference():
    """Of equally good predictors some 5 % are called different, as the test promises."""
    rng = np.random.default_rng(2)
    calls = [paired(*rng.gamma(2.0, 1.0, (2, 24))).result != "undecided" for _ in range(2000)]
    assert 0.03 < np.mean(calls) < 0.07


@pytest.mark.parametrize(
    ("errors", "baseline", "result"),
    [
        ([1.0], [2.0], "undecided"),
        ([np.nan] * 3, [1.0, 2.0, 3.0], "undecided"),
        ([0.0, 0.0], [0.0, 0.0], "undecided"),
        ([1.0, 2.0], [1.0, 2.0], "equal"),
        ([1.0, 2.0], [2.0, 3.0], "better"),
    ],
)
def test_few_positions(errors, baseline, result):
    assert paired(np.array(errors), np.array(baseline)).result == result


def test_the_line_says_what_is_better_and_what_cannot_be_told():
    noise = RNG.normal(0, 0.3, 24)
    made = report(nearest=0.8 * BASE, energy=BASE * 0.9 + noise - noise.mean(), backbone=1.25 * BASE, mine=0.9 * BASE)
    found = verdict(made, "mine")
    assert found["line"] == (
        "verdict at 24 test positions: better than the backbone in EDT (-28 %), C50 (-28 %) and T60 (-28 %); "
        "worse than nearest neighbour, which is better here, in EDT (+12 %), C50 (+12 %) and T60 (+12 %); "
        "these positions cannot tell it from the energy average"
    )
    assert found["against"]["nearest"]["edt_s"]["ratio"] == pytest.approx(1.125)
    results = {name: {one["result"] for one in found["against"][name].values()} for name in found["against"]}
    assert results == {"backbone": {"better"}, "nearest": {"worse"}, "energy": {"undecided"}}
    json.dumps(nan_to_null(found), allow_nan=False)


def test_what_cannot_be_told_is_said_once():
    noise = RNG.normal(0, 0.3, 24)
    close = BASE + noise - noise.mean()
    line = verdict(report(nearest=close, energy=close, backbone=close, mine=BASE), "mine")["line"]
    assert line == (
        "verdict at 24 test positions: "
        "these positions cannot tell it from the backbone, nearest neighbour and the energy average"
    )


def test_metrics_that_disagree():
    made = report(nearest=BASE, backbone=BASE, mine=0.9 * BASE)
    made["rows"][2]["per_position"] |= {"c50_db": (1.004 * BASE).tolist(), "t60_percent": [None] * 24}
    found = verdict(made, "mine")
    assert "better than nearest neighbour in EDT (-10 %) but worse in C50 (+0.4 %)" in found["line"]
    assert found["against"]["nearest"]["t60_percent"]["positions"] == 0


def test_an_unchanged_adapter_is_compared_with_the_others_alone():
    made = report(nearest=1.25 * BASE, backbone=BASE, mine=BASE)
    assert verdict(made, "mine", "the backbone")["line"] == (
        "verdict at 24 test positions: the adapter is unchanged from the backbone; "
        "better than nearest neighbour in EDT (-20 %), C50 (-20 %) and T60 (-20 %)"
    )
    assert "the same as the backbone" in verdict(made, "mine")["line"]
    moved = report(nearest=1.25 * BASE, backbone=2 * BASE, mine=BASE)
    line = verdict(moved, "mine", "studio/base")["line"]
    assert "the adapter is unchanged from studio/base; better than the backbone in EDT (-50 %)" in line
