"""A room of 6 x 4 x 2.7 m whose geometry is known, for sources to be held to."""

import numpy as np
import pytest

from haa_peft.geometry.panorama import depth_around
from haa_peft.geometry.sources import Known
from haa_peft.geometry.surfaces import Surfaces

SIZE, RECEIVER = np.array([6.0, 4.0, 2.7]), np.array([2.0, 1.1, 1.2])


def heard_at(positions, receiver=RECEIVER, late=0.0):
    """Positions whose direct sound comes straight, or ``late`` metres after that."""
    positions = np.array(positions, dtype=float)
    distance = np.linalg.norm(positions - receiver, axis=1)
    return Known(np.array(receiver, dtype=float), positions, np.arange(len(positions)), distance + late)


@pytest.fixture
def known():
    return heard_at(np.random.default_rng(3).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (20, 3)))


@pytest.fixture(scope="session")
def true_depth():
    """Of the empty box; test_panorama.py holds it to the closed form."""
    return depth_around(Surfaces.shoebox(SIZE), RECEIVER)
