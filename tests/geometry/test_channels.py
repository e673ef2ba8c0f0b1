import dataclasses
import json

import numpy as np
import pytest
import trimesh

from haa_peft.errors import InputError
from haa_peft.geometry.channels import MATERIALS
from haa_peft.geometry.estimate.mesh import UPS, read_mesh
from haa_peft.geometry.panorama import DepthMap, directions, render_panorama, surface_channels, without_channels
from haa_peft.geometry.surfaces import Surfaces
from tests.geometry.conftest import RECEIVER, SIZE
from tests.geometry.estimate.test_mesh import box, write

BOTH = ("normals", "materials")
WALLS = ("wood", "wood", "massive", "glazing", "floor_covering", "absorber")
"""At x = 0 and at its other end, at both ends of y, floor and ceiling, as Surfaces.shoebox orders them."""


def wall_of_a_box():
    """Which of the six walls each pixel sees, (256, 512), and the walls' normals into the box, (6, 3): by slabs."""
    rays = directions()
    ends = np.where(rays > 0, SIZE, 0)
    axis = ((ends - RECEIVER) / rays).argmin(axis=-1)
    positive = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
    return 2 * axis + positive, np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


def labelled_box():
    planes = Surfaces.shoebox(SIZE)
    entries = [{**wall, "material": name} for wall, name in zip(planes.to_json(), WALLS, strict=True)]
    return Surfaces.from_json(entries, "room.json")


def labels(names, walls):
    """One channel a class, (9, 256, 512), of walls that are called so."""
    number = np.array([MATERIALS.index(name) if name else -1 for name in names])[walls]
    return np.array([number == i for i in range(len(MATERIALS))], dtype=float)


def test_a_box_has_the_normals_and_materials_of_its_walls():
    walls, normals = wall_of_a_box()
    found = surface_channels(labelled_box(), RECEIVER, BOTH)
    assert (found.shape, found.dtype) == ((3 + len(MATERIALS), 256, 512), np.float32)
    np.testing.assert_array_equal(np.moveaxis(found[:3], 0, -1), normals[walls])
    np.testing.assert_array_equal(found[3:], labels(WALLS, walls))
    whole = render_panorama(labelled_box(), RECEIVER, BOTH)
    np.testing.assert_array_equal(whole[:3], render_panorama(Surfaces.shoebox(SIZE), RECEIVER))
    np.testing.assert_array_equal(whole[3:], found)
    for channels, silent in ((["normals"], slice(3, None)), (["materials"], slice(3))):
        part = surface_channels(labelled_box(), RECEIVER, channels)
        assert not part[silent].any()
        part[silent] = found[silent]
        np.testing.assert_array_equal(part, found)


def test_what_is_not_there_or_not_known_is_zero():
    whole = labelled_box()
    open_above = Surfaces(whole.points[:5], whole.is_triangle[:5], whole.materials[:5].copy())
    open_above.materials[0] = -1
    walls, normals = wall_of_a_box()
    found = surface_channels(open_above, RECEIVER, BOTH)
    inside = walls < 5
    np.testing.assert_array_equal(np.moveaxis(found[:3], 0, -1), np.where(inside[..., None], normals[walls], 0))
    np.testing.assert_array_equal(found[3:], labels([None, *WALLS[1:5], None], walls))


def test_json_keeps_materials_and_has_none_where_none_are():
    found = labelled_box()
    again = Surfaces.from_json(json.loads(json.dumps(found.to_json())), "x")
    np.testing.assert_array_equal(again.materials, [MATERIALS.index(name) for name in WALLS])
    plain = without_channels(found, ["normals"]).to_json()
    assert plain == Surfaces.shoebox(SIZE).to_json()
    assert Surfaces.from_json(plain, "x").materials is None


def test_normals_from_depth_are_those_of_the_planes():
    """But for pixels beside edges, where neighbours see other walls."""
    planes = surface_channels(Surfaces.shoebox(SIZE), RECEIVER, ["normals"])
    depth = np.linalg.norm(render_panorama(Surfaces.shoebox(SIZE), RECEIVER), axis=0)
    seen = DepthMap(depth, "made", "measured", np.zeros(3), SIZE)
    found = surface_channels(seen, RECEIVER, BOTH)
    assert not found[3:].any()
    agreement = (planes[:3] * found[:3]).sum(axis=0)
    assert np.median(agreement) > 0.9999
    assert (agreement > 0.99).mean() > 0.97


def room_of_parts(names):
    """The box as six meshes of two triangles each, with materials called so."""
    scene = trimesh.Scene()
    for i, (corner, first, second) in enumerate(Surfaces.shoebox(SIZE).points):
        corners = np.array([corner, first, first + second - corner, second])
        material = trimesh.visual.material.PBRMaterial(name=names[i], baseColorFactor=[i, 0, 0, 255])
        visual = trimesh.visual.TextureVisuals(uv=np.zeros((4, 2)), material=material)
        part = trimesh.Trimesh(corners @ np.array(UPS["y"]), [[0, 1, 2], [0, 2, 3]], process=False, visual=visual)
        scene.add_geometry(part)
    return scene


def write_obj(folder, names, mtl=True):
    """The same as text: vertices, and a usemtl before every wall."""
    lines = ["mtllib box.mtl"] if mtl else []
    for corner, first, second in Surfaces.shoebox(SIZE).points:
        lines += ["v {} {} {}".format(*point) for point in (corner, first, first + second - corner, second)]
    for i, name in enumerate(names):
        lines += [f"usemtl {name}", "f {} {} {} {}".format(*range(4 * i + 1, 4 * i + 5))]
    (folder / "box.obj").write_text("\n".join(lines) + "\n")
    if mtl:
        (folder / "box.mtl").write_text("\n".join(f"newmtl {name}\nKd 0.{i} 0 0" for i, name in enumerate(set(names))))
    return "box.obj"


@pytest.mark.parametrize("ending", ["obj", "glb"])
def test_a_mesh_has_normals_and_the_materials_that_it_names(ending, tmp_path, known):
    names = ["Wood", "oak door", "massive", "window", "lino", "mystery"]
    mapping = {"oak door": "wood", "window": "glazing", "lino": "floor_covering"}
    if ending == "obj":
        entry = {"mesh": write_obj(tmp_path, names), "unit": "m", "up": "z"}
    else:
        room_of_parts(names).export(tmp_path / "box.glb")
        entry = {"mesh": "box.glb"}
    seen = read_mesh({**entry, "materials": mapping}, tmp_path, known, "room.json")
    walls, normals = wall_of_a_box()
    found = surface_channels(seen, RECEIVER, BOTH)
    inside = np.abs(np.moveaxis(found[:3], 0, -1) - normals[walls]).max(axis=-1) < 1e-3
    assert inside.mean() > 0.9999  # a ray through an edge may hit either wall
    expected = labels(["wood", "wood", "massive", "glazing", "floor_covering", None], walls)
    assert (found[3:] == expected).all(axis=0).mean() > 0.9999
    assert without_channels(seen, []).normals is None
    # a class is a class without a mapping, and everything else is unknown
    alone = surface_channels(read_mesh(entry, tmp_path, known, "room.json"), RECEIVER, BOTH)
    expected = labels(["wood", None, "massive", None, None, None], walls)
    assert (alone[3:] == expected).all(axis=0).mean() > 0.9999


@pytest.mark.parametrize(
    ("materials", "message"),
    [
        ({"oak": "wood"}, "room.json: geometry materials has 'oak', but those in the file are carpet, tin"),
        ({"tin": "metal"}, "room.json: geometry materials 'tin' is 'metal' but must be one of the classes massive, li"),
        ({"tin": None}, "room.json: geometry materials 'tin' is None but must be one of the classes massive"),
        (["wood"], r"geometry materials is \['wood'\] but must be \{NAME IN FILE: CLASS\}"),
    ],
)
def test_bad_mappings(materials, message, tmp_path, known):
    entry = {"mesh": write_obj(tmp_path, ["tin"] * 5 + ["carpet"]), "unit": "m", "up": "z", "materials": materials}
    with pytest.raises(InputError, match=message) as raised:
        read_mesh(entry, tmp_path, known, "room.json")
    assert "\n" not in str(raised.value)


def test_a_mesh_without_materials(tmp_path, known):
    for name in (write(tmp_path, box(), "scan.ply"), write_obj(tmp_path, ["wood"] * 6, mtl=False)):
        entry = {"mesh": name, "unit": "m", "up": "z"}
        assert read_mesh(entry, tmp_path, known, "room.json").materials is None
        with pytest.raises(InputError, match=r"those in the file are none \(an .obj has them in an .mtl beside it\)"):
            read_mesh({**entry, "materials": {"wood": "wood"}}, tmp_path, known, "room.json")


def test_a_surface_of_no_class():
    walls = Surfaces.shoebox(SIZE).to_json()
    walls[2]["material"] = "marble"
    with pytest.raises(InputError, match="room.json: material of surface 2 is 'marble' but must be one of the classes"):
        Surfaces.from_json(walls, "room.json")


def test_arrays_of_a_stored_depth_map_are_checked():
    seen = DepthMap(np.ones((256, 512), np.float32), "made", "measured", np.zeros(3), SIZE)
    about, good = seen.to_json(), np.zeros((256, 512, 3), np.float16)
    assert DepthMap.from_json(about, seen.depth, "x", good).normals is good
    for normals, materials, message in (
        (good[:2], None, "x: normals are"),
        (np.full_like(good, np.nan), None, "x: normals are"),
        (None, np.full((256, 512), len(MATERIALS), np.int8), "x: materials are"),
        (None, np.full((256, 512), -2, np.int8), "x: materials are"),
    ):
        with pytest.raises(InputError, match=message):
            DepthMap.from_json(about, seen.depth, "x", normals, materials)
    assert dataclasses.replace(seen, normals=good).to_json() == about
