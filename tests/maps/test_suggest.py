"""Suggestions against variances that are computed anew with the measurement, and against all choices tried."""

import dataclasses

import numpy as np
import pytest
import torch

from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.levels.process import Parameters, Places, Process
from haa_peft.levels.room import PRIOR_SHARES, RoomLevels
from haa_peft.maps.deviation import levels_deviation
from haa_peft.maps.suggest import farthest, suggest


@pytest.fixture
def levels():
    """Of six measurements at one end of a hall."""
    rng = np.random.default_rng(0)
    positions = rng.uniform([0.5, -1, -0.5], [3, 1, 0.5], (6, 3))
    axis = torch.tensor([[1.0, 0, 0]]).repeat(8, 1).double()
    parameters = Parameters(axis, torch.full((8,), 0.5).double())
    process = Process(parameters, Places.of(positions, np.zeros(6)), torch.zeros(8, 7, 6).double())
    hall = Surfaces.shoebox([20, 6, 3])
    return RoomLevels(process, np.tile(PRIOR_SHARES, (3, 1)), np.array([2.0, 3.0, 1.5]), hall)


def with_measurement(levels, position):
    """The same with another measurement, whatever it says."""
    own = levels.process
    places = Places.of(np.vstack([levels.positions, position]), np.zeros(len(levels.positions) + 1))
    heard = torch.cat([own.levels, torch.zeros(8, 7, 1).double()], dim=-1)
    return dataclasses.replace(levels, process=Process(own.parameters, places, heard))


CANDIDATES = np.array([[x, y, 0.0] for x in (1.0, 4.0, 8.0, 12.0, 16.0) for y in (-2.0, 2.0)])


def test_what_is_known_afterwards_is_what_the_process_says(levels):
    rows, known = suggest(levels, CANDIDATES, 2)
    after = levels
    for row, expected in zip((None, *rows), known, strict=True):
        after = after if row is None else with_measurement(after, CANDIDATES[row])
        assert np.sqrt((levels_deviation(after, CANDIDATES) ** 2).mean()) == pytest.approx(expected, rel=1e-6)


def test_the_first_is_the_best_of_all(levels):
    tried = [levels_deviation(with_measurement(levels, place), CANDIDATES) for place in CANDIDATES]
    assert suggest(levels, CANDIDATES, 1)[0][0] == np.argmin([(one**2).mean() for one in tried])


def test_positions_are_suggested_once(levels):
    rows, known = suggest(levels, CANDIDATES, len(CANDIDATES))
    assert sorted(rows) == list(range(len(CANDIDATES)))
    assert (np.diff(known) < 0).all()


def test_more_than_there_are(levels):
    with pytest.raises(InputError, match="count is 11 but there are 10 places"):
        suggest(levels, CANDIDATES, 11)


def test_the_command(capsys, tmp_path):
    out = tmp_path / "next.csv"
    for by, said in (("distance", "farthest from all measurements"), ("variance", "levels are known to")):
        main(["suggest", "classroom-twin/base", "--store", "adapters", "--grid", "1.5", "--count", "3", "--by", by,
              "--out", str(out)])  # fmt: skip
        rows = np.genfromtxt(out, delimiter=",", names=True)
        assert len(rows) == 3
        assert f"classroom-twin/base: {said}" in capsys.readouterr().out


def test_the_farthest_are_those_that_no_other_exceeds():
    measured = np.array([[0.0, 0, 0], [10.0, 0, 0]])
    candidates = np.array([[x, 0.0, 0] for x in (1.0, 3.0, 5.0, 7.0, 12.5)])
    np.testing.assert_array_equal(farthest(measured, candidates, 3), [2, 4, 1])
    with pytest.raises(InputError, match="count is 6 but must be from 1 to 5"):
        farthest(measured, candidates, 6)
