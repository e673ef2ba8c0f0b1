import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from haa_peft.geometry.panorama import render_panorama
from haa_peft.geometry.reflections import LEAST_ENERGY, SPANS, first_reflections, reflection_levels
from haa_peft.geometry.surfaces import Surfaces

SIZE, RECEIVER = np.array([9.0, 6.0, 3.0]), np.array([2.0, 2.5, 1.2])
POSITIONS = np.array([[3.0, 1.0, 0.2], [2.0, 2.5, -0.9], [6.0, 1.0, -0.5]])


def panorama(size=SIZE, receiver=RECEIVER):
    return torch.from_numpy(render_panorama(Surfaces.shoebox(size), receiver))


def image_sources(position):
    """Delays in s and energies of a box's six first reflections, relative to the direct sound."""
    direct = np.linalg.norm(position)
    for axis in range(3):
        for wall in (0.0, SIZE[axis]):
            image = position.copy()
            image[axis] = 2 * (wall - RECEIVER[axis]) - image[axis]
            path = np.linalg.norm(image)
            yield (path - direct) / 343, (direct / path) ** 2


@pytest.mark.parametrize("position", POSITIONS)
def test_mirrored_energy_and_its_delays_are_those_of_image_sources(position):
    delays, energies = np.array(list(image_sources(position))).T
    delay, mirrored, _ = first_reflections(panorama(), torch.tensor(position[None]).float())[0].numpy()
    assert mirrored.sum() == pytest.approx(energies.sum(), rel=0.03)
    # later sound weighs more in the mean, so it would show a wrong delay; the lobe makes paths a little longer
    assert (mirrored * delay).sum() == pytest.approx((energies * delays).sum(), rel=0.12)
    levels = reflection_levels(panorama(), torch.tensor(position[None]).float())[0]
    levels = torch.exp(2 * levels)[: len(SPANS) + 1]
    expected = np.bincount(np.searchsorted(SPANS, delays), energies, len(SPANS) + 1)
    assert levels.sum() == pytest.approx(expected.sum(), rel=0.03)
    strong = expected.argmax()
    assert levels[strong] == pytest.approx(expected[strong], rel=0.15)


def test_the_small_panorama_has_about_the_same_energy():
    rng = np.random.default_rng(0)
    positions = rng.uniform(0.3, SIZE - 0.3, (100, 3)) - RECEIVER
    positions = positions[np.linalg.norm(positions, axis=1) > 0.5]
    expected = np.array([sum(energy for _, energy in image_sources(position)) for position in positions])
    found = first_reflections(avg_pool2d(panorama(), 8), torch.from_numpy(positions).float())[:, 1].sum((-1, -2))
    error = 10 * np.log10(found.numpy() / expected)
    assert 0.3 < error.mean() < 1.2
    assert np.abs(error).max() < 6


def test_scattered_energy_of_a_floor_is_lamberts():
    height, apart = 1.5, 0.02
    wide = panorama(np.array([300.0, 300.0, 200.0]), np.array([150.0, 150.0, height]))
    _, _, scattered = first_reflections(wide, torch.tensor([[apart, 0, 0]]))[0]
    assert float(scattered.sum()) == pytest.approx(apart**2 / (2 * height**2), rel=0.02)


def test_levels_are_those_of_both_energies_in_spans_of_delay():
    positions = torch.from_numpy(POSITIONS).float()
    found = torch.exp(2 * reflection_levels(panorama(), positions)).numpy()
    for levels, (delay, *energies) in zip(found, first_reflections(panorama(), positions).numpy(), strict=True):
        span = np.searchsorted(SPANS, delay.ravel())
        expected = [np.bincount(span, energy.ravel(), len(SPANS) + 1) for energy in energies]
        np.testing.assert_allclose(levels, np.maximum(np.concatenate(expected), LEAST_ENERGY), rtol=1e-3)


def test_turning_and_mirroring_the_room_changes_nothing():
    room, positions = panorama(), torch.tensor(POSITIONS).float()
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = torch.einsum("ij,jhw->ihw", turn, room).roll(128, dims=-1)
    mirror = torch.tensor([1.0, -1, 1])
    mirrored = (room * mirror[:, None, None]).flip(-1)
    before = reflection_levels(room, positions)
    torch.testing.assert_close(reflection_levels(turned, positions @ turn.T), before, rtol=0, atol=1e-3)
    torch.testing.assert_close(reflection_levels(mirrored, positions * mirror), before, rtol=0, atol=1e-3)


def test_nothing_is_undefined_at_surfaces_and_in_a_room_without_shape():
    positions = torch.tensor([[0.0, 0, 1e-3], [2.0, 0, 0], [0, 0, -1.2], [2.0, 2.0, 2.0]])
    for room in (torch.full((3, 32, 64), 2.0), torch.zeros(3, 32, 64), panorama()):
        assert torch.isfinite(reflection_levels(room, positions)).all()
