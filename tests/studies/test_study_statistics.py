import dataclasses

import numpy as np
import pytest
from scipy import stats

from haa_peft.studies.results import read_results
from haa_peft.studies.statistics import compare_runs, difference, place_groups


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_the_interval_of_normal_errors_is_student_s(rng):
    a, b = rng.normal(1, 0.3, (1, 80)), rng.normal(1.1, 0.3, (1, 80))
    found = difference([a], [b])
    expected = stats.ttest_rel(a[0], b[0]).confidence_interval(0.95)
    width = expected.high - expected.low
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.relative == pytest.approx((a.mean() - b.mean()) / b.mean())
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.06 * width)


def test_nineteen_of_twenty_intervals_hold_the_true_difference(rng):
    hits = 0
    for _ in range(200):
        a, b = rng.normal(1, 0.3, (1, 40)), rng.normal(1, 0.3, (1, 40))
        found = difference([a], [b], resamples=400)
        hits += found.low <= 0 <= found.high
    assert 180 <= hits <= 199


def test_rows_that_are_one_differ_by_exactly_nothing(rng):
    errors = rng.random((3, 30))
    found = difference([errors], [errors.copy()])
    assert (found.difference, found.low, found.high, found.relative) == (0, 0, 0, 0)
    assert found.verdict == "no difference"


def test_a_constant_offset_is_found_exactly(rng):
    b = [rng.random((3, 30)), rng.random((3, 12))]
    found = difference([x - 0.25 for x in b], b, [np.full(x.shape, 0.5) for x in b])
    assert [found.difference, found.low, found.high] == pytest.approx([-0.25] * 3)
    assert found.jnd == pytest.approx(-0.5)
    assert found.verdict == "better"
    assert difference(b, [x - 0.25 for x in b]).verdict == "worse"


def test_only_pairs_count(rng):
    a, b = rng.random((2, 20)), rng.random((2, 20))
    a[0, :4], b[0, 4:8], b[1, 7] = 100, np.nan, np.nan
    a[0, :4] = np.nan
    both = np.isfinite(a) & np.isfinite(b)
    found = difference([a], [b])
    assert [found.mean_a, found.mean_b] == pytest.approx([a[both].mean(), b[both].mean()])
    assert found.difference == pytest.approx((a - b)[both].mean())
    assert difference([a], [np.full_like(b, np.nan)]).verdict == "undefined"
    assert difference([a[:, 8:11]], [b[:, 8:11]]).verdict == "undefined"


def test_seeds_that_differ_widen_the_interval_as_random_effects_do(rng):
    """Variance of the mean is that of seeds / S and of positions / P (their product is small here)."""
    seeds, positions = rng.normal(0, 1, (8, 1)), rng.normal(0, 1, (1, 100))
    zero = np.zeros((8, 100))
    alone = difference([zero + positions], [zero], resamples=20_000)
    together = difference([zero + positions + seeds], [zero], resamples=20_000)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    expected = np.sqrt(seeds.var() / 8 + positions.var() / 100)
    assert (together.high - together.low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


def test_configurations_weigh_the_same_and_share_seeds():
    a = [np.full((2, 10), 3.0), np.full((2, 200), 1.0)]
    found = difference(a, [np.full((2, 10), 2.0), np.full((2, 200), 2.0)])
    assert (found.mean_a, found.mean_b, found.difference) == (2, 2, 0)
    seeds = np.array([[-1.0], [1.0]])  # drawn together: the mean is -1, 0 or 1
    found = difference([seeds * np.ones((2, 10))] * 2, [np.zeros((2, 10))] * 2)
    assert (found.low, found.high) == (-1, 1)


def test_runs_are_paired_by_seed_and_position(write_run):
    write_run("lora", [0.01, 0.02, 0.03, 0.04, np.nan, 0.06], seed=0)
    write_run("lora", [0.05] * 6, seed=1, positions=range(3, 9))
    write_run("full", [0.06, 0.05, 0.04, 0.03, 0.02, 0.01], seed=0, positions=[5, 4, 3, 2, 1, 0])
    folder = write_run("full", [0.04] * 6, seed=1, positions=range(5, 11))
    results = read_results(folder)
    found = compare_runs(results, "lora", "full", "edt_s")
    assert found.mean_a == pytest.approx(np.mean([0.01, 0.02, 0.03, 0.04, 0.06, *[0.05] * 4]))
    assert found.difference == pytest.approx(0.04 / 9)
    assert found.jnd == pytest.approx(0.04 / 9 / (0.05 * 0.4))
    t60 = compare_runs(results, "lora", "full", "t60_percent")
    assert t60.jnd == pytest.approx(4 / 9 / 5)
    elsewhere = [dataclasses.replace(r, configuration="050") if r.run == "full" else r for r in results]
    assert compare_runs(elsewhere, "lora", "full", "edt_s").verdict == "undefined"


def test_configurations_at_the_same_places_share_their_draw():
    """Two copies of one configuration tell no more than one; as strangers they would seem to."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.2, 1, (1, 60)), rng.normal(1, 1, (1, 60))
    places = [("room", p) for p in range(60)]
    once = difference([a], [b], None, [places])
    twice = difference([a, a], [b, b], None, [places, places])
    strangers = difference([a, a], [b, b], None, [places, [("other", p) for p in range(60)]])
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    width = once.high - once.low
    assert strangers.high - strangers.low == pytest.approx(width / np.sqrt(2), rel=0.1)


def test_places_are_numbered_over_all_that_touch():
    groups = place_groups([["a", "b"], ["x"], ["b", "c"], ["y", "x"]])
    assert [sorted(group) for group in groups] == [["a", "b", "c"], ["x", "y"]]
    assert all(sorted(group.values()) == list(range(len(group))) for group in groups)
