import numpy as np
import OpenEXR
import pytest
from PIL import Image

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.depth_file import read_depth_map
from haa_peft.geometry.panorama import depth_around, directions, render_depth
from haa_peft.geometry.surfaces import Surfaces
from tests.geometry.conftest import RECEIVER, SIZE, heard_at


def read(folder, known, **entry):
    return read_depth_map(entry, folder, known, "room.json")


def refused(folder, known, message, **entry):
    with pytest.raises(InputError, match=message) as raised:
        read(folder, known, **entry)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def write(folder, depth, name="depth.npy"):
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".png":
        Image.fromarray(np.rint(depth).astype(np.uint16)).save(path)
    else:
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, {"Z": np.ascontiguousarray(depth, dtype=np.float32)}).write(str(path))
    return name


@pytest.mark.parametrize(
    ("name", "unit", "factor", "tolerance"),
    [
        ("depth.npy", "m", 1, 1e-6),
        ("depth.npy", "cm", 100, 1e-6),
        ("depth.png", "mm", 1000, 1e-3),
        ("depth.exr", "m", 1, 1e-6),
    ],
)
def test_formats_and_units(tmp_path, known, true_depth, name, unit, factor, tolerance):
    found = read(tmp_path, known, depth=write(tmp_path, true_depth * factor, name), unit=unit)
    np.testing.assert_allclose(found.depth, true_depth, rtol=tolerance)
    assert found.depth.dtype == np.float32
    low, high = found.bounds()
    np.testing.assert_allclose([low, high], [[-0.25] * 3, SIZE + 0.25], atol=0.02)
    assert found.trust == "measured"
    assert f"unit {unit}" in found.notes[0]
    assert any("sign of azimuth is borne out" in note for note in found.notes)


def test_what_is_not_stated_is_said(tmp_path, known, true_depth):
    note = read(tmp_path, known, depth=write(tmp_path, true_depth)).notes[0]
    assert note.endswith(
        "taken without being stated: unit m, distance radial, centre_azimuth 0, turning counterclockwise, first_row up"
    )


def test_a_camera_turns_the_other_way(tmp_path, known, true_depth):
    # what a person at the receiver sees who looks along +y: from left to right -x, +y, +x
    picture = np.roll(true_depth[:, ::-1], 128, axis=1)
    assert picture[128, 256] == pytest.approx(SIZE[1] - RECEIVER[1], rel=0.01)  # ahead: the wall at y = 4 m
    assert picture[128, 128] == pytest.approx(RECEIVER[0], rel=0.01)  # to the left: the wall at x = 0
    name = write(tmp_path, picture[::-1])
    found = read(tmp_path, known, depth=name, turning="clockwise", centre_azimuth=90, first_row="down")
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-6)


@pytest.mark.parametrize("height", [64, 512])
def test_other_sizes_are_resampled(tmp_path, known, true_depth, height):
    rays = directions(height, 2 * height)
    name = write(tmp_path, render_depth(Surfaces.shoebox(SIZE), RECEIVER, rays))
    found = read(tmp_path, known, depth=name)
    error = np.abs(found.depth / true_depth - 1)
    assert np.quantile(error, 0.9) < 0.02
    assert f"resampled from {height} x {2 * height}" in found.notes


def test_distance_along_the_axis_of_cube_faces(tmp_path, known, true_depth):
    # of a wall that a cube's face looks at straight, the planar distance is the same everywhere
    planar = true_depth * np.abs(directions()).max(axis=-1)
    floor = directions()[..., 2] < -0.9
    np.testing.assert_allclose(planar[floor], RECEIVER[2], rtol=1e-9)
    found = read(tmp_path, known, depth=write(tmp_path, planar), distance="planar")
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-6)


def spoiled(value, count=7):
    def change(depth):
        depth = depth.copy()
        depth[100, 40 : 40 + count] = value
        return depth

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:, :300], r"depth.npy is 256 x 300 but a depth panorama is twice as wide as high"),
        (lambda d: d.T, r"is 512 x 256 but .*; transpose it"),
        (lambda d: d[:16, :32], r"is 16 x 32 but .* at least 32 x 64"),
        (lambda d: np.stack([d] * 3), r"is float64 of \(3, 256, 512\) but must be \(height, width\)"),
        (lambda d: d.astype(complex), "is complex128 of"),
        (spoiled(0), r"7 pixels \(0.0%\) are zero, first row 100, column 40; .* state \"holes\": \"fill\""),
        (spoiled(np.nan), r"7 pixels \(0.0%\) are NaN or infinite, first row 100, column 40; .* \"fill\""),
        (spoiled(np.inf), r"7 pixels \(0.0%\) are NaN or infinite"),
        (spoiled(-1), r"7 pixels \(0.0%\) are negative, first row 100, column 40; a depth is positive"),
        (lambda d: 1000 * d, r"the median depth of .* m \(m\) is of no room; in mm or cm or in it would be one's"),
        (lambda d: d[:, ::-1], "positions are heard through its surfaces, .* sign of azimuth changed it "
                               'would hide none: state "turning": "clockwise", "centre_azimuth": 0'),
        (lambda d: np.roll(d, 256, axis=1), r'its zero changed .* "counterclockwise", "centre_azimuth": -180'),
        (lambda d: np.roll(d[:, ::-1], 128, axis=1), r'"turning": "clockwise", "centre_azimuth": 90'),
    ],
)  # fmt: skip
def test_bad_maps(tmp_path, known, true_depth, change, message):
    refused(tmp_path, known, message, depth=write(tmp_path, change(true_depth)))


def test_a_map_that_stands_on_its_head(tmp_path):
    receiver = SIZE / 2 - [0, 0, 0.95]  # in the middle, near the floor
    depth = depth_around(Surfaces.shoebox(SIZE), receiver)
    above = heard_at(receiver + np.array([[1, 1, 1.5], [-1, 1, 1.6], [1, -1, 1.4], [0.3, 0.2, 1.7]]), receiver)
    np.testing.assert_allclose(read(tmp_path, above, depth=write(tmp_path, depth)).depth, depth, rtol=1e-6)
    name = write(tmp_path, depth[::-1])
    refused(tmp_path, above, 'upside down it would hide none: state "first_row": "down"', depth=name)
    read(tmp_path, above, depth=name, first_row="down")


def test_the_convention_that_is_proposed_is_right(tmp_path, known, true_depth):
    name = write(tmp_path, np.roll(true_depth[:, ::-1], 128, axis=1))
    found = read(tmp_path, known, depth=name, turning="clockwise", centre_azimuth=90)
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-6)


def test_holes_are_filled_if_one_says_so(tmp_path, known, true_depth):
    patch = np.zeros((256, 512), dtype=bool)
    patch[120:140, 200:230] = True
    for nothing in (0, np.nan):
        name = write(tmp_path, np.where(patch, nothing, true_depth))
        found = read(tmp_path, known, depth=name, holes="fill")
        np.testing.assert_allclose(found.depth, true_depth, rtol=0.02)
        # 20 rows around the horizon of 30 columns, as a share of the sphere
        edges = np.sin(np.pi / 2 - np.array([120, 140]) / 256 * np.pi)
        assert found.open_share == pytest.approx((edges[0] - edges[1]) / 2 * 30 / 512, rel=1e-6)
    name = write(tmp_path, np.where(np.arange(512) < 200, 0, true_depth))
    refused(
        tmp_path, known, "has no depth in 39% of the directions and at most 25% are filled", depth=name, holes="fill"
    )
    refused(tmp_path, known, "has no depth in any pixel", depth=write(tmp_path, 0 * true_depth), holes="fill")


def test_whole_numbers_need_a_unit(tmp_path, known, true_depth):
    name = write(tmp_path, true_depth * 1000, "depth.png")
    refused(tmp_path, known, r'whole numbers, median .* add "unit": one of mm, cm', depth=name)
    refused(tmp_path, known, r"the median depth of .* m \(m\) is of no room", depth=name, unit="m")


def test_pictures_of_8_bits(tmp_path, known, true_depth):
    Image.fromarray((true_depth * 20).astype(np.uint8)).save(tmp_path / "depth.png")
    refused(tmp_path, known, "is a PNG of mode L but must be one channel of 16 bits", depth="depth.png", unit="cm")


@pytest.mark.parametrize("name", ["depth.npy", "depth.png", "depth.exr"])
def test_damaged_files(tmp_path, known, name):
    (tmp_path / name).write_bytes(b"not a depth map")
    refused(tmp_path, known, "cannot be read as a depth map", depth=name)


def test_channels_of_exr(tmp_path, known, true_depth):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    depth = true_depth.astype(np.float32)
    OpenEXR.File(header, {"RGB": np.stack([depth] * 3, axis=-1)}).write(str(tmp_path / "depth.exr"))
    np.testing.assert_allclose(read(tmp_path, known, depth="depth.exr").depth, true_depth, rtol=1e-6)
    OpenEXR.File(header, {"A": depth}).write(str(tmp_path / "depth.exr"))
    refused(tmp_path, known, "has the channels A but needs Z, Y or R", depth="depth.exr")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"depth": "none.npy"}, "geometry depth is 'none.npy' but must be a file"),
        ({"depth": 3}, "geometry depth is 3 but must be a file"),
        ({"depth": "depth.npy", "turning": "left"}, "geometry turning is 'left' but must be one of counterclockwise"),
        ({"depth": "depth.npy", "centre_azimuth": "north"}, "geometry centre_azimuth is 'north' but must be a number"),
        ({"depth": "depth.npy", "units": "m"}, "geometry has 'units', but depth goes with unit, distance"),
    ],
)
def test_bad_entries(tmp_path, known, true_depth, entry, message):
    write(tmp_path, true_depth)
    refused(tmp_path, known, message, **entry)
