import numpy as np
import pytest

from haa_peft.geometry.estimate.holes import fill_holes
from haa_peft.geometry.panorama import directions, open_share, solid_angles
from tests.geometry.conftest import RECEIVER, SIZE

RAYS = directions()


def cap(axis, degrees):
    axis = np.array(axis, dtype=float)
    return RAYS @ (axis / np.linalg.norm(axis)) > np.cos(np.radians(degrees))


def test_solid_angles():
    assert solid_angles().sum() == pytest.approx(1)
    # a spherical cap covers (1 - cos) / 2 of the sphere
    depth = np.where(cap([1, 0, 0], 40), np.inf, 1.0)
    assert open_share(depth) == pytest.approx((1 - np.cos(np.radians(40))) / 2, rel=0.01)


@pytest.mark.parametrize(("axis", "degrees"), [([0, 0, 1], 25), ([0, -1, 0], 15), ([-1, 0, 0], 10)])
def test_a_round_hole_facing_a_wall(true_depth, axis, degrees):
    # around it all depths are the same, and so is the harmonic function inside: distance / cos
    wall = np.abs(axis).argmax()
    distance = SIZE[wall] - RECEIVER[wall] if sum(axis) > 0 else RECEIVER[wall]
    hole = cap(axis, degrees)
    filled = fill_holes(np.where(hole, np.inf, true_depth))
    np.testing.assert_allclose(filled[hole], distance / np.cos(np.radians(degrees)), rtol=0.01)
    np.testing.assert_array_equal(filled[~hole], true_depth[~hole])


@pytest.mark.parametrize("degrees", [10, 30, 59])
def test_nothing_is_nearer_or_farther_than_what_is_around(true_depth, degrees):
    hole = cap([1, 0.3, 0.2], degrees)
    filled = fill_holes(np.where(hole, np.inf, true_depth))
    rim = cap([1, 0.3, 0.2], degrees + 1) & ~hole
    assert true_depth[rim].min() <= filled[hole].min()
    assert filled[hole].max() <= true_depth[rim].max()
