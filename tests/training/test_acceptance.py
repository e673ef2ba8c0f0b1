import json
import math

import numpy as np
import pytest
from scipy import stats

from haa_peft.commands.sentences import acceptance_of
from haa_peft.errors import InputError
from haa_peft.files import nan_to_null
from haa_peft.training.acceptance import Acceptance, least_fall


def taken(before, after, caution):
    return Acceptance.of(before, after, 5, caution).accepted


def test_gain_beyond_chance():
    before = [1.0, 2.0, 3.0, 4.0]
    sure, chance = [0.9, 1.8, 2.9, 3.8], [0.2, 2.2, 3.2, 3.8]
    assert taken(before, sure, caution=1.0)
    assert not taken(before, chance, caution=1.0)
    assert not taken(before, before, caution=0.0)
    assert taken([2.0], [1.0], caution=9.0)  # nothing is known of its spread
    assert not taken(before, [0.0, 1.0, 2.0, 3.0], caution=9.0)


@pytest.mark.parametrize("count", [3, 9, 30, 155])
def test_caution_is_the_confidence_of_a_paired_t_test(count):
    rng = np.random.default_rng(count)
    before = rng.normal(1.0, 0.2, count)
    after = before - rng.normal(0.05, 0.1, count)
    p_value = stats.ttest_rel(before, after, alternative="greater").pvalue
    caution = stats.norm.isf(p_value)
    assert taken(before, after, caution - 1e-6)
    assert not taken(before, after, caution + 1e-6)
    assert least_fall(before, after, caution) == pytest.approx((before - after).mean(), rel=1e-5)


def test_it_says_what_was_gained_and_asked_for():
    """Falls of .1 and .3: their mean .2, its standard error .1, and Student's 84.1 % of one degree 1.837."""
    found = Acceptance.of([2.0, 2.0], [1.9, 1.7], 15, 1.0)
    assert found.threshold == pytest.approx(0.1 * stats.t.ppf(stats.norm.cdf(1), 1))
    fell = "validation loss fell by 10.0 % (0.2000) from 2.0000"
    assert found.reason() == f"{fell}; more than 9.2 % (0.1837) was asked for"
    refused = Acceptance.of([2.0, 2.0], [1.9, 1.7], 15, 2.0)
    about = refused.to_json()
    assert about["outcome"] == "unchanged"
    assert (about["gain"], about["gain_percent"]) == pytest.approx((0.2, 10.0))
    assert about["threshold_percent"] == pytest.approx(100 * about["threshold"] / 2)
    assert f"{fell} at step 15, but more than 69.8 %" in about["reason"]
    assert "no step had a lower validation loss than the start (2.0000)" in Acceptance.of([2.0], [2.0], 0, 0.0).reason()


@pytest.mark.parametrize("caution", [0.5, 100.0])
def test_a_card_keeps_it(caution):
    found = Acceptance.of([2.0, 2.0, 2.0], [1.9, 1.7, 1.8], 15, caution)
    assert math.isinf(found.threshold) == (caution > 8)
    card = json.loads(json.dumps(nan_to_null({"acceptance": found.to_json()}), allow_nan=False))
    assert acceptance_of(card) == found


def test_older_cards_have_losses_alone():
    curve = [[0, 2.0], [5, 1.8], [10, 1.9]]
    undone = acceptance_of({"validation": curve, "best_step": 0})
    assert (undone.outcome, undone.best_step, undone.gain) == ("unchanged", 5, pytest.approx(0.2))
    assert undone.reason() == "validation loss fell by 10.0 % (0.2000) from 2.0000 at step 5, which was not enough"
    assert acceptance_of({"validation": curve, "best_step": 5}).outcome == "trained"
    assert acceptance_of({"validation": [], "best_step": 0}) is None
    with pytest.raises(InputError, match="no valid training.acceptance"):
        acceptance_of({"acceptance": {"outcome": "trained"}})
