import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.geometry.panorama import directions, render_depth, render_panorama
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.rooms.haa import haa_facts
from tests.conftest import PARITY


def configuration(name):
    facts = haa_facts()[name]
    return Surfaces.from_json(facts["surfaces"], name), np.array(facts["speaker_xyz"])


def test_agrees_with_the_published_classroom_depth_map():
    surfaces, receiver = configuration("classroomBase")
    published = np.load(PARITY / "depth_class_room.npy")
    error = np.abs(render_depth(surfaces, receiver, directions()) - published) / published
    assert np.median(error) < 0.005


def test_shoebox_depth_is_the_closed_form():
    size, receiver = np.array([5.0, 4.0, 3.0]), np.array([1.0, 3.0, 1.2])
    rays = directions()
    with np.errstate(divide="ignore"):
        expected = np.where(rays > 0, (size - receiver) / rays, -receiver / rays).min(axis=-1)
    np.testing.assert_allclose(render_depth(Surfaces.shoebox(size), receiver, rays), expected, rtol=1e-9)


def test_directions_of_the_panorama():
    panorama = render_panorama(Surfaces.shoebox([10.0, 10.0, 10.0]), np.array([5.0, 5.0, 5.0]))
    assert panorama.shape == (3, 256, 512)
    assert panorama.dtype == np.float32
    up, ahead, left = panorama[:, 0, 0], panorama[:, 128, 256], panorama[:, 128, 384]
    np.testing.assert_allclose(up, [0, 0, 5], atol=0.1)
    np.testing.assert_allclose(ahead, [5, 0, 0], atol=0.1)
    np.testing.assert_allclose(left, [0, 5, 0], atol=0.1)


def test_every_haa_configuration_has_its_own_closed_panorama():
    depths = {}
    for name in haa_facts():
        surfaces, receiver = configuration(name)
        depths[name] = render_depth(surfaces, receiver, directions(64, 128))
        assert np.isfinite(depths[name]).all(), name
    names = list(depths)
    for i, first in enumerate(names):
        for second in names[:i]:
            # the nearest two, dampened base and rotation, have their loudspeakers 26 cm apart
            assert np.abs(depths[first] - depths[second]).max() > 0.1, (first, second)


def test_triangle_covers_half_its_parallelogram():
    points = [[1, -1, -1], [1, 1, -1], [1, -1, 1]]
    rays = directions()
    hits = {
        shape: np.isfinite(
            render_depth(Surfaces.from_json([{"points": points, "shape": shape}], "x"), np.zeros(3), rays)
        )
        for shape in ("triangle", "parallelogram")
    }
    assert 0 < hits["triangle"].sum() < hits["parallelogram"].sum()
    assert not (hits["triangle"] & ~hits["parallelogram"]).any()
    assert hits["parallelogram"].sum() / hits["triangle"].sum() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"points": [[0, 0, 0], [1, 0, 0], [0, 1, 0]], "shape": "circle"}, "'circle' but must be one of"),
        ({"points": [[0, 0, 0], [1, 0, 0]]}, "needs 3 points"),
        ({"points": [[0, 0, 0], [1, 0, 0], [2, 0, 0]]}, "has no area"),
        ({"points": [[0, 0, 0], [1, 0, 0], [0, float("nan"), 0]]}, "3 points of 3 finite metres"),
    ],
)
def test_bad_surfaces(entry, message):
    with pytest.raises(InputError, match=message):
        Surfaces.from_json([entry], "room.json")
