import time

import numpy as np
import pytest
import trimesh

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.mesh import UPS, read_mesh
from haa_peft.geometry.panorama import directions
from tests.geometry.conftest import RECEIVER, SIZE, heard_at


def box(size=SIZE, faces=12):
    mesh = trimesh.creation.box(size)
    while len(mesh.faces) < faces:
        mesh = mesh.subdivide()
    mesh.apply_translation(np.array(size) / 2)
    return mesh


def write(folder, mesh, name="scan.ply", unit=1.0, up="z", move=(0, 0, 0)):
    """A mesh in room coordinates as a file in other units and axes."""
    mesh = mesh.copy()
    mesh.vertices = mesh.vertices @ np.array(UPS[up]) / unit + np.array(move)
    mesh.export(folder / name)
    return name


def read(folder, known, **entry):
    return read_mesh(entry, folder, known, "room.json")


def refused(folder, known, message, **entry):
    with pytest.raises(InputError, match=message) as raised:
        read(folder, known, **entry)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_rotations_are_rotations():
    for axis, rotation in UPS.items():
        assert np.linalg.det(rotation) == 1
        direction = np.array([axis.endswith(name) for name in "xyz"]) * (-1 if axis[0] == "-" else 1)
        np.testing.assert_array_equal(rotation @ direction, [0, 0, 1])


@pytest.mark.parametrize(
    ("name", "unit", "up", "said"),
    [
        ("scan.ply", 1.0, "z", "unit m detected, up z detected"),
        ("scan.ply", 0.001, "y", "unit mm detected, up y detected"),
        ("scan.obj", 0.001, "z", "unit mm detected, up z detected"),
        ("scan.glb", 1.0, "y", "unit m as .glb prescribes, up y as .glb prescribes"),
    ],
)
def test_a_box_is_the_box(tmp_path, known, true_depth, name, unit, up, said):
    found = read(tmp_path, known, mesh=write(tmp_path, box(), name, unit, up))
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-4)
    assert said in found.notes[0]
    assert found.trust == "measured"
    assert found.open_share == 0
    low, high = found.bounds()
    np.testing.assert_allclose([low, high], [[-0.25] * 3, SIZE + 0.25], atol=1e-3)


@pytest.mark.parametrize("up", ["x", "-x", "-y", "-z"])
def test_axes_and_units_as_stated(tmp_path, known, true_depth, up):
    name = write(tmp_path, box(), unit=0.3048, up=up)
    found = read(tmp_path, known, mesh=name, unit="ft", up=up)
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-4)
    assert "unit ft stated" in found.notes[0]


def test_what_could_be_read_twice_must_be_stated(tmp_path, known):
    name = write(tmp_path, box(), unit=0.3048)  # 19.7 x 13.1 x 8.9 feet, or a hall in metres
    refused(tmp_path, known, r"could be read in m with z up or in ft with z up, .*; state \"unit\"", mesh=name)
    read(tmp_path, known, mesh=name, unit="ft")


@pytest.mark.parametrize(("name", "up", "stated"), [("scan.ply", "z", {"unit": "m", "up": "z"}), ("scan.glb", "y", {})])
def test_a_mesh_in_millimetres(tmp_path, known, name, up, stated):
    write(tmp_path, box(), name, 0.001, up)
    spans = rf"in m with {up} up it spans 6000 x 4000 x 2700 m, which is no room; in mm with {up} up it would fit"
    refused(tmp_path, known, spans, mesh=name, **stated)
    read(tmp_path, known, mesh=name, unit="mm", up=up)


def test_a_hole_is_filled_and_reported(tmp_path, known, true_depth):
    mesh = box(faces=12_000)
    centre = mesh.triangles_center
    gap = (centre[:, 0] > 5.99) & (np.abs(centre[:, 1:] - RECEIVER[1:]) < [0.8, 0.6]).all(axis=1)
    mesh.update_faces(~gap)
    found = read(tmp_path, known, mesh=write(tmp_path, mesh))
    share = (2 * np.pi) ** -1 * 2 * np.arctan(0.8 * 0.6 / (4 * np.sqrt(16 + 0.8**2 + 0.6**2)))  # a rectangle's
    assert found.open_share == pytest.approx(share, rel=0.15)
    assert np.abs(found.depth / true_depth - 1).max() < 0.03


def test_an_open_mesh(tmp_path, known):
    mesh = box()
    mesh.update_faces(mesh.face_normals[:, 2] < 0.5)  # no ceiling
    mesh.update_faces(mesh.face_normals[:, 0] < 0.5)  # no wall at x = 6 m
    message = refused(tmp_path, known, "is open: from the receiver no surface is seen in 27% of the directions, and "
                      "at most 25% are filled; close it", mesh=write(tmp_path, mesh))  # fmt: skip
    assert message.startswith(f"{tmp_path / 'scan.ply'}: none of 10 readings fits; in m with z up it is open")


def test_a_receiver_outside(tmp_path, known, true_depth):
    name = write(tmp_path, box(), move=(10, 0, 3))
    message = refused(tmp_path, known, r"the receiver \[2.0, 1.1, 1.2\] lies outside it", mesh=name, unit="m", up="z")
    assert '"receiver"' in message
    moved = (RECEIVER + np.array([10, 0, 3])).tolist()
    np.testing.assert_allclose(read(tmp_path, known, mesh=name, receiver=moved).depth, true_depth, rtol=1e-4)


def test_a_receiver_in_the_notch_of_an_l(tmp_path):
    wings = [box([6.0, 2.0, 2.7]), box([2.0, 4.0, 2.7])]  # their walls inside each other are no harm here
    mesh = trimesh.util.concatenate(wings)
    known = heard_at([[3.0, 1.0, 1.2], [1.0, 3.0, 1.2]], receiver=[4.5, 3.2, 1.2])
    refused(tmp_path, known, "is open: from the receiver", mesh=write(tmp_path, mesh), unit="m", up="z")


def test_a_position_outside(tmp_path, known):
    far = heard_at([*known.positions, [7.5, 1, 1]])
    refused(
        tmp_path, far, r"position 20, \[7.5, 1.0, 1.0\], lies outside it", mesh=write(tmp_path, box()), unit="m", up="z"
    )


def test_a_mesh_turned_about(tmp_path, known, true_depth):
    mesh = box()
    mesh.apply_translation(-RECEIVER)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1]))
    name, zero = write(tmp_path, mesh), [0, 0, 0]
    refused(tmp_path, known, "in m with z up and turn -90 it would fit", mesh=name, unit="m", up="z", receiver=zero)
    found = read(tmp_path, known, mesh=name, unit="m", up="z", receiver=zero, turn=-90)
    np.testing.assert_allclose(found.depth, true_depth, rtol=1e-4)


def ell():
    """An L-shaped room: x 0..6, y 0..2 m, and a wing of x 0..2, y 2..4 m; 2.7 m high."""
    corners = [(0, 0), (6, 0), (6, 2), (2, 2), (2, 4), (0, 4)]
    vertices = [(*corner, z) for z in (0, 2.7) for corner in corners]
    flat = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 5], [3, 4, 5]])
    walls = [face for i in range(6) for j in [(i + 1) % 6] for face in ([i, j, i + 6], [j, j + 6, i + 6])]
    return trimesh.Trimesh(vertices, [*flat, *flat + 6, *walls], process=False)


def test_a_mirrored_mesh(tmp_path):
    known = heard_at([[0.7, 2.8, 1.2], [0.9, 3.0, 1.0], [0.5, 2.6, 1.5], [5.0, 1.0, 1.2]], receiver=[3, 1, 1.2])
    found = read(tmp_path, known, mesh=write(tmp_path, ell()), unit="m", up="z")
    assert "the sign of azimuth is borne out, since the mirror image would not agree" in found.notes
    mesh = ell()
    mesh.vertices[:, 0] = 6 - mesh.vertices[:, 0]
    message = "hides what is heard: 3 of 4 positions are heard through its surfaces, .* or mirror it"
    refused(tmp_path, known, message, mesh=write(tmp_path, mesh), unit="m", up="z")


def test_a_cabinet_around_the_receiver(tmp_path, known):
    cabinet = trimesh.creation.box([0.4, 0.4, 0.4])
    cabinet.apply_translation(RECEIVER)
    mesh = trimesh.util.concatenate([box(), cabinet])
    refused(
        tmp_path, known, "hides what is heard: 20 of 20 positions are heard through its surfaces",
        mesh=write(tmp_path, mesh), unit="m", up="z",
    )  # fmt: skip


def test_furniture_is_seen(tmp_path, known, true_depth):
    table = trimesh.creation.box([1.0, 1.0, 0.1])
    table.apply_translation([2.0, 1.1, 0.45])
    found = read(tmp_path, known, mesh=write(tmp_path, trimesh.util.concatenate([box(), table])))
    np.testing.assert_allclose(found.depth[-1], 0.7, rtol=1e-3)  # 1.2 - 0.5 m straight down
    np.testing.assert_allclose(found.depth[0], 1.5, rtol=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a mesh", "cannot be read as a mesh"),
        (b"", "cannot be read as a mesh"),
        (trimesh.PointCloud(np.eye(3)).export(file_type="ply"), "holds 3 points and no triangles"),
    ],
)
def test_damaged_files(tmp_path, known, content, message):
    (tmp_path / "scan.ply").write_bytes(content)
    refused(tmp_path, known, message, mesh="scan.ply")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"mesh": "none.ply"}, "geometry mesh is 'none.ply' but must be a file"),
        ({"mesh": "scan.ply", "unit": "yard"}, "geometry unit is 'yard' but must be one of mm, cm"),
        ({"mesh": "scan.ply", "up": "w"}, "geometry up is 'w' but must be one of x, y, z"),
        ({"mesh": "scan.ply", "scale": 2}, "geometry has 'scale', but mesh goes with unit, up"),
        ({"mesh": "scan.ply", "turn": "left"}, "geometry turn is 'left' but must be a number"),
        ({"mesh": "scan.ply", "receiver": [1]}, "geometry receiver is .* three finite numbers"),
    ],
)
def test_bad_entries(tmp_path, known, entry, message):
    write(tmp_path, box())
    refused(tmp_path, known, message, **entry)


def test_half_a_million_triangles_in_five_seconds(tmp_path, known, true_depth):
    mesh = box(faces=500_000)
    mesh.vertices += np.random.default_rng(0).normal(0, 0.005, mesh.vertices.shape)  # a scanner's noise
    name = write(tmp_path, mesh)
    begun = time.process_time()  # of all threads: less depends on what else the machine does
    found = read(tmp_path, known, mesh=name, unit="m", up="z")
    assert time.process_time() - begun < 5
    assert len(mesh.faces) >= 500_000
    assert np.median(np.abs(found.depth / true_depth - 1)) < 0.01
    assert found.depth.shape == directions().shape[:2]
