import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from haa_peft import load_room
from haa_peft.errors import InputError
from haa_peft.geometry.estimate import photo
from haa_peft.geometry.estimate.photo import load_network, read_photo
from haa_peft.geometry.estimate.scales import Heights, fit_depth
from haa_peft.geometry.estimate.views import AXES, HALF, PIXELS, UPWARDS, cut_views, look_up
from haa_peft.geometry.panorama import depth_around, directions, render_depth
from haa_peft.geometry.sources import Known, read_geometry
from haa_peft.geometry.surfaces import Surfaces
from tests.geometry.conftest import RECEIVER, SIZE, heard_at

TABLE = {"points": [[3, 1, 0.75], [4.6, 1, 0.75], [3, 2.5, 0.75]]}
FURNISHED = Surfaces.from_json([*Surfaces.shoebox(SIZE).to_json(), TABLE], "x")


def read(folder, known, **entry):
    return read_photo(entry, folder, known, "room.json")


def refused(folder, known, message, **entry):
    with pytest.raises(InputError, match=message) as raised:
        read(folder, known, **entry)
    assert "\n" not in str(raised.value)


def planar_views(surfaces):
    """Depth (6, 384, 384) along the axes of the six views, straight from the planes."""
    right, down = np.meshgrid(*[(np.arange(PIXELS) + 0.5) / PIXELS * 2 * HALF - HALF] * 2)
    views = []
    for ahead, up in zip(AXES, UPWARDS, strict=True):
        ways = ahead + right[..., None] * np.cross(ahead, up) - down[..., None] * up
        length = np.linalg.norm(ways, axis=-1)
        views.append(render_depth(surfaces, RECEIVER, ways / length[..., None]) / length)
    return np.array(views)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A randomly initialised DPT of some thousand weights, on disk."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        is_hybrid=False,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    """A panorama of the room that is nearer where it is darker, as a camera sees it: azimuth falls to the right."""
    depth = depth_around(FURNISHED, RECEIVER)[:, ::-1]
    shades = (depth / depth.max() * 255).astype(np.uint8)
    Image.fromarray(np.stack([shades] * 3, axis=-1)).save(tmp_path / "photo.png")
    return "photo.png"


@pytest.mark.parametrize(("centre", "clockwise"), [(0.0, True), (90.0, True), (-30.0, False)])
def test_views_look_where_they_should(centre, clockwise):
    # a picture that shows every direction's coordinates
    turn = -1 if clockwise else 1
    azimuth = np.radians(centre + turn * ((np.arange(1024) + 0.5) / 1024 * 360 - 180))
    elevation = np.pi / 2 - (np.arange(512) + 0.5) / 512 * np.pi
    el, az = np.meshgrid(elevation, azimuth, indexing="ij")
    shown = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1)
    views = cut_views(shown, centre, clockwise)
    assert views.shape == (6, PIXELS, PIXELS, 3)
    middle = views[:, PIXELS // 2 - 1 : PIXELS // 2 + 1, PIXELS // 2 - 1 : PIXELS // 2 + 1].mean(axis=(1, 2))
    np.testing.assert_allclose(middle, AXES, atol=0.01)
    np.testing.assert_array_less(0.8, (views[:, 0, PIXELS // 2] * UPWARDS).sum(axis=-1))
    # back along rays: every direction is shown its own coordinates
    rays = directions(32, 64)
    for axis in range(3):
        value, cosine, weight = look_up(views[..., axis], rays)
        assert (weight.max(axis=0) > 0).all()
        for one in range(6):
            seen = weight[one] > 0
            np.testing.assert_allclose(value[one][seen], rays[..., axis][seen], atol=0.02)
        np.testing.assert_allclose(cosine, np.moveaxis(rays @ AXES.T, -1, 0))


@pytest.mark.parametrize("are_depths", [True, False])
@pytest.mark.parametrize("room_height", [None, 2.7])
def test_scales_and_shifts_of_views_are_found(known, are_depths, room_height):
    rng, depth = np.random.default_rng(0), planar_views(FURNISHED)
    scale = rng.uniform(3, 30, (6, 1, 1))
    images = scale * depth if are_depths else scale / depth + scale * rng.uniform(-0.3, 0.3, (6, 1, 1))
    found, floor_error = fit_depth(images, are_depths, Heights(RECEIVER[2], room_height), known)
    error = np.abs(found / depth_around(FURNISHED, RECEIVER) - 1)
    assert np.median(error) < 0.015
    assert np.quantile(error, 0.9) < 0.05  # the table is no floor, and does no harm
    assert floor_error < 0.02


@pytest.fixture
def near():
    """Positions around the receiver, which a box of half the size would hold."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    return heard_at(RECEIVER + 0.9 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1))


def test_a_model_on_disk(tmp_path, near, picture, tiny_model):
    first = read(tmp_path, near, rgb=picture, model=str(tiny_model))
    assert first.depth.shape == (256, 512)
    assert (first.depth > 0).all()
    assert first.trust == "estimated"
    assert first.source == f"photograph {picture} through {tiny_model.name}"
    assert "inverse depth" in first.notes[0]
    assert "height of 1.2 m above what is below (its z: a floor at 0 that no table hides)" in first.notes[1]
    low, high = first.bounds()
    assert (low < near.positions).all()
    assert (high > near.positions).all()
    # of values that carry nothing the floor's height is made, and it is right
    floor = directions()[..., 2] < -0.8
    assert np.median(first.depth[floor] * -directions()[..., 2][floor]) == pytest.approx(RECEIVER[2], rel=0.1)


def test_a_model_that_contradicts_what_is_heard(tmp_path, known, picture, tiny_model):
    message = "of 20 positions are heard through its surfaces, .*; check that it was taken at"
    refused(tmp_path, known, message, rgb=picture, model=str(tiny_model))


def test_what_the_network_sees_is_what_the_room_becomes(tmp_path, known, picture, monkeypatch):
    """With a network that is right, the whole way from the picture gives the room."""

    def right(name, entry, where):
        return lambda views: views[..., 0].astype(float).clip(1), "depth"

    # the picture shows radial depth; a network gives depth along its axis
    def along_the_axis(name, entry, where):
        estimate, output = right(name, entry, where)
        side = (np.arange(PIXELS) + 0.5) / PIXELS * 2 * HALF - HALF
        cosine = 1 / np.sqrt(1 + side**2 + side[:, None] ** 2)
        return lambda views: estimate(views) * cosine, output

    monkeypatch.setattr(photo, "load_network", along_the_axis)
    truth = depth_around(FURNISHED, RECEIVER)
    found = read(tmp_path, known, rgb=picture, model="right")
    error = np.abs(found.depth / truth - 1)
    assert np.median(error) < 0.02
    with pytest.raises(InputError, match='it would agree with "turning": "clockwise", "centre_azimuth": 0'):
        read(tmp_path, known, rgb=picture, model="right", turning="counterclockwise")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"rgb": "photo.png"}, 'needs a model that estimates depth; give a folder or a name on the Hub as "model"'),
        ({"rgb": "none.jpg", "model": "x"}, "geometry rgb is 'none.jpg' but must be a file"),
        (
            {"rgb": "photo.png", "model": "no-such-folder"},
            "model 'no-such-folder' cannot be loaded for depth estimation",
        ),
        ({"rgb": "square.png", "model": "x"}, "square.png is 100 x 100 pixels but an equirectangular panorama"),
        ({"rgb": "text.png", "model": "x"}, "cannot be read as a picture"),
        (
            {"rgb": "photo.png", "model": "x", "height": 0},
            "would be 0 m above what is below, which gives no scale; state",
        ),
        ({"rgb": "photo.png", "model": "x", "room_height": 1}, "room_height is 1 but must be a number from 1.8 to 100"),
    ],
)
def test_bad_input(tmp_path, known, picture, entry, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Image.new("RGB", (100, 100)).save(tmp_path / "square.png")
    (tmp_path / "text.png").write_text("not a picture")
    refused(tmp_path, known, message, **entry)


@pytest.mark.parametrize(("kind", "output"), [("metric", "depth"), ("relative", "inverse")])
def test_depth_anything_says_what_it_gives(tmp_path, kind, output):
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=1,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type=kind,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14).save_pretrained(tmp_path)
    estimate, found = load_network(str(tmp_path), {}, "room.json")
    assert found == output
    assert load_network(str(tmp_path), {"output": "inverse"}, "room.json")[1] == "inverse"
    views = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3), dtype=np.uint8)
    values = estimate(views)
    assert values.shape == (6, 96, 96)
    assert np.isfinite(values).all()


def test_a_model_of_another_task(tmp_path, known, picture):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    refused(tmp_path, known, "model '.*' cannot be loaded for depth estimation", rgb=picture, model="model")


def test_values_that_make_no_room(known):
    for images in (np.full((6, 8, 8), np.nan), np.zeros((6, 8, 8))):
        with pytest.raises(InputError, match="the depth model gives values from"):
            fit_depth(images, False, Heights(1.2), known)
    with pytest.raises(InputError, match="the depth model gives values from -1"):
        fit_depth(np.full((6, 8, 8), -1.0), True, Heights(1.2), known)


def test_its_scale_is_fitted_anew_where_measurements_are_left_out(room_folder, picture, tmp_path, monkeypatch):
    asked = []

    def load(name, entry, where):
        asked.append(name)
        depth = planar_views(FURNISHED)
        return lambda views: 7 * depth, "depth"

    monkeypatch.setattr(photo, "load_network", load)
    entry = {"rgb": str(tmp_path / picture), "model": "some/model", "height": 1.2}
    room = load_room(room_folder, entry)
    fewer = room.with_shots(4)
    assert len(asked) == 1  # the network is not asked again
    assert fewer.fit is not None
    expected = read_geometry(
        entry, tmp_path, Known.of(room.receiver, room.positions, room.rirs, fewer.splits["train"]), "x"
    )
    np.testing.assert_array_equal(fewer.geometry.depth, expected.depth)
