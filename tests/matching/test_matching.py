"""Which adapter measurements belong to: margins against Student's, noise against a decay whose end is known."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from haa_peft import load_room
from haa_peft.acoustics.sampling import RIR_LENGTH, SAMPLE_RATE
from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import InputError
from haa_peft.levels.cells import EDGES_S, above_noise
from haa_peft.main_job import adapt_room
from haa_peft.matching import BARE, FEWEST, Match, fit_table, identify, rank
from haa_peft.training.settings import TrainingSettings


def match(errors):
    return Match(rank(errors), len(next(iter(errors.values()))), 0.0, [])


def test_the_margin_and_its_interval_are_students():
    rng = np.random.default_rng(0)
    common = rng.uniform(1, 5, 40)  # hard measurements are hard for all: the differences are paired
    errors = {"b": common + 0.3 + 0.2 * rng.normal(size=40), "a": common}
    best, other = rank(errors)
    assert (best.adapter, best.behind_db, best.low, best.high) == ("a", 0, 0, 0)
    apart = errors["b"] - errors["a"]
    assert other.behind_db == pytest.approx(apart.mean())
    student = stats.t.interval(0.95, 39, apart.mean(), stats.sem(apart))
    np.testing.assert_allclose([other.low, other.high], student, atol=0.01)
    assert best.first == pytest.approx(1 - other.first)
    assert match(errors).line.startswith(f"a: the next, b, is {apart.mean():.2f} dB behind")


def test_intervals_of_few_measurements_are_wide_enough():
    """The plain percentiles of 6 hold the true margin in 85 % of the cases."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        apart = rng.normal(1.0, 0.4, 6)
        _, other = rank({"a": np.zeros(6), "b": apart})
        held.append(other.low <= 1.0 <= other.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_what_cannot_be_told_is_said():
    rng = np.random.default_rng(0)
    same = rng.uniform(1, 2, 12)
    found = match({"a": same, "b": same + 1, "c": same})  # two with the same weights
    assert found.rivals == ["c"]
    assert found.line == "cannot tell: a is best, but 12 measurements do not tell it from c"
    assert [fit.first for fit in found.fits] == [1, 1, 0]
    few = match({"a": same[: FEWEST - 1], "b": same[: FEWEST - 1] + 1})
    assert few.line.startswith("cannot tell: a is best, but 4 measurements (5 are needed to tell anything)")
    assert match({BARE: same, "b": same + 1}).line.startswith("none of the stored adapters: the next, b")
    assert "| 2    |       c |" in fit_table(found)


def decays(reverberation, noise, count=40, seed=0):
    """White noise (count, 9600) that decays from 1 m away, over a floor; both of known level in every octave."""
    rng = np.random.default_rng(seed)
    after = np.arange(RIR_LENGTH) / SAMPLE_RATE - 1 / 343
    envelope = np.where(after >= 0, 10 ** (-3 * after / reverberation), 0)
    return (rng.normal(size=(count, RIR_LENGTH)) * envelope + noise * rng.normal(size=(count, RIR_LENGTH))).astype(
        np.float32
    )


def test_noise_begins_where_the_decay_goes_under():
    reverberation, noise = 0.3, 10 ** (-30 / 20)
    heard = above_noise(decays(reverberation, noise), np.ones(40)).mean(axis=0)
    under = reverberation * 30 / 60  # s after the direct sound
    begins, ends = np.array([0, *EDGES_S]), np.array([*EDGES_S, RIR_LENGTH / SAMPLE_RATE])
    assert (heard[ends < under - 0.04] > 0.9).all()
    assert (heard[begins > under + 0.02] < 0.1).all()
    assert above_noise(decays(reverberation, 0.0), np.ones(40)).mean() > 0.98
    assert above_noise(decays(reverberation, 10.0), np.ones(40)).mean() < 0.1


@pytest.fixture
def stored(room_folder, tiny_backbone, tmp_path):
    """A room, and a store with its adapter."""
    room = load_room(room_folder)
    method, training = MethodSettings("lora"), TrainingSettings(max_steps=2)
    adapt_room(room, method, training, backbone=tiny_backbone, test_split=None, k=4).write(tmp_path / "store")
    return room


def noisy(room, rows, level):
    rirs = room.rirs.copy()
    rirs[rows] += level * np.random.default_rng(0).normal(size=rirs[rows].shape).astype(np.float32)
    return dataclasses.replace(room, rirs=rirs)


def test_measurements_that_are_noise_do_not_count(stored, tiny_backbone, tmp_path):
    quiet = identify(stored, tiny_backbone, tmp_path / "store", 4)
    assert {fit.adapter for fit in quiet.fits} == {BARE, "studio/base"}
    assert quiet.measurements == 12
    assert quiet.noise < 0.05
    lost = stored.splits["train"][[2, 5]]
    some = identify(noisy(stored, lost, 10.0), tiny_backbone, tmp_path / "store", 4)
    assert some.measurements == 10
    assert [line.split(":")[0] for line in some.left_out] == [f"measurement {row}" for row in lost]
    with pytest.raises(InputError, match="its measurements are noise"):
        identify(noisy(stored, stored.splits["train"], 10.0), tiny_backbone, tmp_path / "store", 4)
