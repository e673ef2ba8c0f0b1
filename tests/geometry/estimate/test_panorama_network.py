"""Against pyroomacoustics' image sources, whose walls are known."""

import json
from importlib import resources

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.echo_maps import (
    CHANNELS,
    DISTANCES,
    FARTHEST,
    FINER,
    HEIGHT,
    LEVEL_ROWS,
    NEAREST,
    WIDTH,
    echo_maps,
)
from haa_peft.geometry.estimate.network import (
    PanoramaNetwork,
    load_network,
    panorama_loss,
    predict_depth,
    weights_fingerprint,
)
from haa_peft.geometry.panorama import directions, render_depth, solid_angles
from haa_peft.geometry.sources import Known, geometry_argument, read_geometry
from haa_peft.geometry.surfaces import Surfaces, box_around
from tests.geometry.estimate.test_shoebox import RECEIVER, SIZE, measure

POSITIONS = np.random.default_rng(1).uniform([0.4, 0.4, 0.4], SIZE - [0.4, 0.4, 0.9], (12, 3))


@pytest.fixture(scope="module")
def rirs():
    return measure(POSITIONS)


@pytest.fixture(scope="module")
def maps(rirs):
    return echo_maps(rirs, POSITIONS, RECEIVER, 0.0)


def log_error(depth, true):
    return float((np.abs(np.log(depth / true)) * solid_angles(*true.shape)).sum())


def test_a_position_along_a_normal():
    """Whose distance across it is zero, and by rounding less."""
    positions = np.vstack([POSITIONS, [7.24, 7.24, 1.2]])
    rirs = np.random.default_rng(0).standard_normal((13, 9600))
    assert echo_maps(rirs, positions, np.array([0, 0, 1.2]), 0.0).isfinite().all()


@pytest.mark.parametrize(
    ("ray", "distance", "kind"),
    [
        ([1, 0, 0], SIZE[0] - RECEIVER[0], 0),
        ([-1, 0, 0], RECEIVER[0], 0),
        ([1, 0, 0], SIZE[0] - RECEIVER[0], 1),
        ([0, 1, 0], SIZE[1] - RECEIVER[1], 1),
        ([0, -1, 0], RECEIVER[1], 1),
        ([0, 0, 1], SIZE[2] - RECEIVER[2], 2),
        ([0, 0, -1], RECEIVER[2], 2),
    ],
)
def test_evidence_is_where_the_walls_are(maps, ray, distance, kind):
    pixel = (directions(HEIGHT, WIDTH) @ ray).argmax()
    seen = distance / (directions(HEIGHT, WIDTH) @ ray).max()
    evidence = maps[kind * DISTANCES : (kind + 1) * DISTANCES].flatten(1)[:, pixel]
    centres = np.geomspace(NEAREST, FARTHEST, DISTANCES * FINER)[1::FINER]
    at_the_wall = evidence[int(np.abs(np.log(centres / seen)).argmin())]
    within = evidence[: int((centres < 9).sum())]  # later the image sources of `measure` end
    assert (within >= at_the_wall).float().mean() < 0.15


def test_the_box_around_the_positions_is_the_last_channel(maps):
    low, high = box_around(np.vstack([POSITIONS, RECEIVER]))
    box = render_depth(Surfaces.shoebox(high - low), RECEIVER - low, directions(HEIGHT, WIDTH))
    np.testing.assert_allclose(maps[-1].exp(), box, rtol=1e-5)
    log_depth, _ = PanoramaNetwork()(maps[None])
    torch.testing.assert_close(log_depth[0], maps[-1])  # an untrained network changes nothing


def test_a_turned_room_has_turned_maps(rirs, maps):
    columns = WIDTH // 4  # so that the box around the positions turns too
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    found = echo_maps(rirs, POSITIONS @ turn.T, RECEIVER @ turn.T, 0.0)
    assert found.shape == (CHANNELS, HEIGHT, WIDTH)
    differing = (found - maps.roll(columns, dims=-1)).abs() > 1e-3
    assert differing.float().mean() < 0.01  # a path may round to the next sample


def test_levels_are_those_of_the_decay():
    rng = np.random.default_rng(0)
    distance, t60, ratio = 3.0, 0.5, 0.1
    time = np.arange(9600) / 22_050 - distance / 343
    rirs = np.where(time > 0, ratio * 10 ** (-3 * time / t60), 0) * rng.standard_normal((12, 9600))
    rirs[:, round(distance / 343 * 22_050)] = 10.0
    angle = rng.uniform(0, 2 * np.pi, 12)
    positions = distance * np.stack([np.cos(angle), np.sin(angle), np.zeros(12)], axis=1) + [0, 0, 1.5]
    found = echo_maps(rirs, positions, np.array([0, 0, 1.5]), 0.0)[LEVEL_ROWS, 0, 0].numpy()
    edges = np.array([0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32])
    tail = -np.diff(10 ** (-6 * edges / t60)) * t60 / (6 * np.log(10)) * 22_050 * ratio**2
    np.testing.assert_allclose(found, np.log(tail / (100 * distance**2)) / 2, atol=0.1)


def test_the_loss_is_laplace_s_likelihood():
    true, log_scale = torch.zeros(1, HEIGHT, WIDTH), torch.full((1, HEIGHT, WIDTH), -1.0)
    likelihood = torch.distributions.Laplace(true, log_scale.exp()).log_prob(torch.tensor(0.3))
    expected = -likelihood[0, 0, 0] - np.log(2)
    assert panorama_loss(true + 0.3, log_scale, true).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_network_sees_more_than_a_box_around_the_positions():
    network, box = [], []
    for number in range(4):
        rng = np.random.default_rng(number)
        size = np.array([*rng.uniform(4, 11, 2), rng.uniform(2.4, 4)])
        receiver = rng.uniform([0.5, 0.5, 0.8], [*(size[:2] - 0.5), 1.6])
        positions = rng.uniform([0.4, 0.4, 0.4], [*(size[:2] - 0.4), 1.9], (12, 3))
        measured = measure(positions, order=10, size=size, receiver=receiver)
        true = render_depth(Surfaces.shoebox(size), receiver, directions())
        depth, factor = predict_depth(measured, positions, receiver)
        assert depth.shape == (256, 512)
        assert 1 < factor < 2
        low, high = box_around(np.vstack([positions, receiver]))
        network.append(log_error(depth, true))
        box.append(log_error(render_depth(Surfaces.shoebox(high - low), receiver - low, directions()), true))
    assert np.mean(network) < 0.8 * np.mean(box)


def test_as_a_source_of_geometry(rirs, tmp_path):
    known = Known(RECEIVER, POSITIONS, np.arange(12), np.linalg.norm(POSITIONS - RECEIVER, axis=1), rirs)
    entry, folder, where = geometry_argument("sound-network")
    found = read_geometry(entry, folder, known, where)
    assert found.trust == "estimated"
    assert "by its own estimate" in found.notes[0]
    same = read_geometry({"sound": "network", "floor": 0.0}, tmp_path, known, "room.json")
    np.testing.assert_array_equal(found.depth, same.depth)
    below, unknown = (
        read_geometry({"sound": "network", "floor": floor}, tmp_path, known, "room.json").depth for floor in (-1, None)
    )
    assert below[192:].mean() > 1.3 * found.depth[192:].mean()  # a floor 1 m lower is farther
    assert not np.array_equal(unknown, found.depth)
    with pytest.raises(InputError, match="sound is 'walls' but must be one of shoebox, network"):
        read_geometry({"sound": "walls"}, tmp_path, known, "room.json")


def test_the_story_is_of_the_weights():
    story = json.loads((resources.files("haa_peft.geometry.estimate") / "weights" / "panorama.json").read_text())
    assert story["sha256"] == weights_fingerprint()


def test_other_weights_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="cannot be read as a panorama network's weights"):
        load_network(tmp_path / "other.safetensors")
