import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from haa_peft.cli import main
from haa_peft.geometry.estimate.explain import explain
from haa_peft.rooms.load import load_room


def test_of_planes(room_folder):
    lines = explain(load_room(room_folder))
    assert lines[0] == "studio/base: 6 planes"
    assert lines[1].endswith("spans 6.00 x 4.00 x 2.70 m")
    assert lines[2].startswith("nearest surface 1.20 m (azimuth")
    assert "elevation -90 degrees), farthest" in lines[2]
    assert lines[3] == "nothing seen in 0.0% of the directions"
    assert lines[4].startswith("direct sound of 12 measurements: 12 come straight")
    assert lines[-1] == "trust: stated; as good as what was stated"


def test_of_open_planes(room_folder):
    description = json.loads((room_folder / "room.json").read_text())
    room = load_room(room_folder)
    del description["room_size"]
    description["surfaces"] = [*room.surfaces.to_json()[:1], *room.surfaces.to_json()[2:5]]  # nor ceiling
    (room_folder / "room.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="no surface is seen"):
        load_room(room_folder)
    description["surfaces"] = [*room.surfaces.to_json()[:1], *room.surfaces.to_json()[2:]]  # no wall at x = 6 m
    (room_folder / "room.json").write_text(json.dumps(description))
    (line,) = [line for line in explain(load_room(room_folder)) if line.startswith("nothing seen")]
    # a rectangle of 4 x 2.7 m, 4 m away, in quarters from its foot
    share = sum(np.arctan(y * z / (4 * np.sqrt(16 + y**2 + z**2))) for y in (1.5, 2.5) for z in (1.2, 1.5)) / (
        4 * np.pi
    )
    assert float(line.split()[3].rstrip("%")) == pytest.approx(100 * share, rel=0.02)
    assert line.endswith("taken to be as far as the farthest")


def test_the_command(room_folder, tmp_path, capsys):
    mesh = trimesh.creation.box([6000, 4000, 2700])
    mesh.apply_translation([3000, 2000, 1350])
    mesh.export(tmp_path / "scan.ply")
    scan, png, out = tmp_path / "scan.ply", tmp_path / "depth.png", tmp_path / "depth.npy"
    main(["geometry", str(room_folder), "--geometry", str(scan), "--png", str(png), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "studio/base: mesh scan.ply of 12 triangles" in printed
    assert "unit mm detected, up z detected: no other of 10 readings is a room around the positions" in printed
    assert "trust: measured" in printed
    assert Image.open(png).size == (1000, 520)
    # what it wrote is a geometry itself
    main(["geometry", str(room_folder), "--geometry", str(out)])
    assert "studio/base: depth panorama depth.npy" in capsys.readouterr().out
    np.testing.assert_allclose(load_room(room_folder, str(out)).panorama, load_room(room_folder).panorama, atol=1e-3)


def test_bad_input_is_one_line(room_folder, tmp_path, capsys):
    np.save(tmp_path / "depth.npy", np.zeros((256, 512)))
    for arguments, message in (
        (["--geometry", str(tmp_path / "depth.npy")], "131072 pixels (100.0%) are zero"),
        (["--geometry", "nowhere.ply"], "--geometry is 'nowhere.ply' but must be none"),
        (["--out", str(tmp_path / "x.txt")], "must end in .npy"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["geometry", str(room_folder), *arguments])
        assert ended.value.code == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error
