"""Normals and materials from a room folder to a prediction by name."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from haa_peft import RoomPredictor, load_backbone, load_room
from haa_peft.adapters.settings import METHODS
from haa_peft.augmentation.transform import mirrored, rotated, scaled, seen_from
from haa_peft.cli import main
from haa_peft.errors import InputError
from haa_peft.geometry.surfaces import Surfaces
from haa_peft.inference.packs import levels_of, load_pack
from haa_peft.matching import attach_pack
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName
from tests.test_finetune import finetune, pack

WALLS = ("wood", "glazing", "massive", "lightweight", "floor_covering", "absorber")
SURFACES = "source_network.surface_embedding"


@pytest.fixture
def labelled_folder(room_folder):
    """The room with walls of six classes."""
    about = json.loads((room_folder / "room.json").read_text())
    walls = Surfaces.shoebox(about.pop("room_size")).to_json()
    about["surfaces"] = [{**wall, "material": name} for wall, name in zip(walls, WALLS, strict=True)]
    (room_folder / "room.json").write_text(json.dumps(about))
    return room_folder


@pytest.fixture
def options(labelled_folder, tiny_backbone_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--room", labelled_folder, "--backbone", tiny_backbone_file, "--k", 4, "--max-steps", 3,
            "--validate-every", 1, "--warmup", 0, "--caution", 0]  # fmt: skip


@pytest.fixture
def room(labelled_folder):
    return load_room(labelled_folder).with_channels(["normals", "materials"])


def test_a_room_shows_what_it_is_asked_for(room, labelled_folder):
    plain = load_room(labelled_folder)
    assert plain.panorama.shape == (3, 256, 512)
    np.testing.assert_array_equal(room.panorama[:3], plain.panorama)
    assert room.with_channels(["normals"]) is room
    assert plain.with_channels(["normals"]).fingerprint == plain.fingerprint
    assert room.fingerprint != plain.fingerprint
    repainted = dataclasses.replace(room.geometry, materials=room.geometry.materials[::-1])
    assert dataclasses.replace(room, geometry=repainted).fingerprint != room.fingerprint
    with pytest.raises(InputError, match="studio/base: channels materials need a geometry with materials"):
        load_room(labelled_folder, "none").with_channels(["materials"])


def turned(image, matrix):
    """Coordinates and normals under a map, labels as they are."""
    vectors = [np.einsum("ij,jhw->ihw", matrix, image[i : i + 3]) for i in (0, 3)]
    return np.concatenate([*vectors, image[6:]])


def test_channels_of_a_transformed_room_are_those_of_the_room_transformed(room):
    """Against the panorama's own pixels, moved and with their vectors mapped."""
    image = room.panorama
    quarter = np.roll(turned(image, [[0, -1, 0], [1, 0, 0], [0, 0, 1]]), 128, axis=-1)
    across_y = turned(image, np.diag([1, -1, 1]))[..., ::-1]
    for found, expected in (
        (rotated(room, 90).panorama, quarter),
        (mirrored(room, "y").panorama, across_y),
        (mirrored(room, "x").panorama, np.roll(turned(across_y, np.diag([-1, -1, 1])), 256, axis=-1)),
        (scaled(room, 1.5).panorama, np.concatenate([1.5 * image[:3], image[3:]])),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    view = seen_from(room, np.array([0.5, 0.4, 0.2])).view
    low = -room.receiver[:, None, None]
    ends = low, low + np.array([6.0, 4.0, 2.7])[:, None, None]
    # every pixel lies on the wall that its normal and its label say
    for axis in range(3):
        for number, (end, inwards) in enumerate(zip(ends, (1, -1), strict=True)):
            on_it = view[3 + axis] == inwards
            assert on_it.any()
            np.testing.assert_allclose(view[axis][on_it], end[axis, 0, 0], atol=1e-5)
            labels = view[6:][:, on_it]
            np.testing.assert_array_equal(labels, np.repeat(labels[:, :1], labels.shape[1], axis=1))
            assert labels[:, 0].argmax() == room.geometry.materials[2 * axis + number]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "statistics"])
def test_trained_stored_switched_and_merged(method, options, room, tiny_backbone_file, monkeypatch):
    finetune(*options, "--method", method, "--lr", 0.02, "--channels", "normals,materials", "--name", "studio/base@c")
    finetune(*options, "--name", "studio/base@plain")
    stored, plain = pack("studio/base@c"), pack("studio/base@plain")
    moved = [name for name, tensor in stored.tensors.items() if SURFACES in name and tensor.abs().max() > 0]
    assert moved
    assert stored.card["training"]["best_step"] > 0
    assert not any(SURFACES in name for name in plain.tensors)
    assert stored.channels == ("normals", "materials") == tuple(stored.card["room"]["channels"])
    assert "shows normals and materials of surfaces too" in Path("adapters/studio/base@c/README.md").read_text()
    backbone = load_backbone(tiny_backbone_file)
    before = fingerprint(backbone)
    adapter = attach_pack(backbone, stored)
    places = room.positions[:3] + 0.05
    asked = places - room.receiver, 4, 0
    expected = predict_rirs(backbone, RoomTensors.of_room(room), *asked, levels=levels_of(stored))
    without = RoomTensors.of_room(dataclasses.replace(room, channels=()))
    blind = predict_rirs(backbone, without, *asked, levels=levels_of(stored))
    adapter.detach()
    assert fingerprint(backbone) == before
    peak = np.abs(expected).max()
    assert np.abs(blind - expected).max() > 1e-4 * peak
    for merged in (False, True):
        predictor = RoomPredictor.load("studio/base@plain", store="adapters", backbone=backbone, merged=merged)
        without = predictor.predict(places)
        predictor.switch("studio/base@c")
        np.testing.assert_allclose(predictor.predict(places), expected, atol=1e-3 * peak)
        both = predictor.predict_many([("studio/base@c", places), ("studio/base@plain", places[:2])])
        np.testing.assert_allclose(both[0], expected, atol=1e-3 * peak)
        np.testing.assert_allclose(both[1], without[:2], atol=1e-3 * np.abs(without).max())
    unprepared = dataclasses.replace(stored, prepared=None)
    assert unprepared.digest() == stored.digest() == stored.prepared_from


def test_a_pack_without_channels_knows_nothing_of_materials(options, labelled_folder):
    finetune(*options, "--name", "studio/base@labelled")
    about = json.loads((labelled_folder / "room.json").read_text())
    for wall in about["surfaces"]:
        del wall["material"]
    (labelled_folder / "room.json").write_text(json.dumps(about))
    finetune(*options, "--name", "studio/base@unlabelled")
    one, other = (Path("adapters/studio") / f"base@{name}" for name in ("labelled", "unlabelled"))
    for file in ("room.json", "references.safetensors", "adapter_config.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    for file in ("adapter_model.safetensors", "prepared.safetensors"):  # whose header's order is left to chance
        tensors = [load_file(folder / file) for folder in (one, other)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    cards = [json.loads((folder / "card.json").read_text()) for folder in (one, other)]
    assert cards[0]["room"] == cards[1]["room"]
    assert cards[0]["method"] == cards[1]["method"]


@pytest.mark.slow
def test_one_on_top_of_another_reads_what_that_reads(options, labelled_folder, tiny_backbone_file, capsys):
    finetune(*options, "--lr", 0.02, "--channels", "normals", "--name", "studio/base@below", "--rank", 1)
    finetune(*options, "--lr", 0.02, "--name", "studio/base@above", "--on-top-of", "studio/base@below", "--rank", 1)
    finetune(*options, "--lr", 0.02, "--name", "studio/base@warm", "--channels", "normals,materials", "--rank", 1,
             "--start", "studio/base@below")  # fmt: skip
    finetune(*options, "--lr", 0.02, "--name", "studio/base@same", "--rank", 1, "--start", "studio/base@below")
    finetune(*options, "--name", "studio/base@plain")
    assert [pack(f"studio/base@{name}").channels for name in ("above", "warm", "same", "plain")] == [
        ("normals",), ("normals", "materials"), ("normals",), ()
    ]  # fmt: skip
    assert pack("studio/base@same").card["method"]["channels"] == "normals"
    weights = ["--backbone", str(tiny_backbone_file)]
    main(["adapters", "verify", *weights])
    assert capsys.readouterr().out.count(": ok") == 5
    backbone = load_backbone(tiny_backbone_file)
    whole = load_pack(Path("adapters"), AdapterName.parse("studio/base@above"), backbone)
    assert f"base_model.model.{SURFACES}.lora_B.weight" in whole.tensors
    main(
        [
            "adapters",
            "blend",
            str(labelled_folder),
            "--of",
            "studio/base@below",
            "studio/base@plain",
            *weights,
            "--k",
            "4",
        ]
    )
    assert pack("studio/base@blend").channels == ("normals",)
    main(["evaluate", str(labelled_folder), "--adapter", "studio/base@warm", *weights, "--k", "4", "--json", "e.json"])
    said = capsys.readouterr().out
    assert "trained on other measurements" not in said
    reported = {row["predictor"]: row["edt_s"] for row in json.loads(Path("e.json").read_text())["rows"]}
    trained = {row["predictor"]: row["edt_s"] for row in pack("studio/base@warm").card["evaluation"]["rows"]}
    assert reported["studio/base@warm"] == pytest.approx(trained["studio/base@warm"], rel=1e-3)
    about = json.loads((labelled_folder / "room.json").read_text())
    (labelled_folder / "room.json").write_text(json.dumps({**about, "surfaces": [
        {key: value for key, value in wall.items() if key != "material"} for wall in about["surfaces"]]}))  # fmt: skip
    main(["adapters", "match", str(labelled_folder), *weights, "--k", "4"])
    said = capsys.readouterr().out
    assert "left out: studio/base: channels materials need a geometry with materials" in said
    assert "studio/base@above" in said


def test_materials_of_a_mesh_are_in_its_pack(options, labelled_folder, tiny_backbone_file, tmp_path, known_mesh):
    finetune(*options, "--geometry", known_mesh, "--channels", "normals,materials", "--name", "studio/base@mesh")
    stored = read_pack(Path("adapters"), AdapterName.parse("studio/base@mesh"))
    room = load_room(labelled_folder, str(known_mesh)).with_channels(["normals", "materials"])
    assert stored.geometry.normals.dtype == np.float16
    np.testing.assert_array_equal(stored.as_room().panorama, room.panorama)
    assert room.panorama[6:].any()
    main(["adapters", "verify", "studio/base@mesh", "--backbone", str(tiny_backbone_file)])
    finetune(*options, "--geometry", known_mesh, "--name", "studio/base@without")
    assert pack("studio/base@without").geometry.normals is None


@pytest.fixture
def known_mesh(tmp_path):
    """The room's box with a wooden floor."""
    lines = ["mtllib box.mtl"]
    for corner, first, second in Surfaces.shoebox([6.0, 4.0, 2.7]).points:
        lines += ["v {} {} {}".format(*point) for point in (corner, first, first + second - corner, second)]
    for i in range(6):
        lines += [f"usemtl {'floor' if i == 4 else 'massive'}", "f {} {} {} {}".format(*range(4 * i + 1, 4 * i + 5))]
    (tmp_path / "box.obj").write_text("\n".join(lines) + "\n")
    (tmp_path / "box.mtl").write_text("newmtl floor\nKd 1 0 0\nnewmtl massive\nKd 0 1 0\n")
    entry = {"mesh": "box.obj", "unit": "m", "up": "z", "materials": {"floor": "wood"}}
    (tmp_path / "mesh.json").write_text(json.dumps(entry))
    return tmp_path / "mesh.json"


def test_the_explanation_of_a_geometry_names_materials(labelled_folder, known_mesh, capsys):
    main(["geometry", str(labelled_folder), "--geometry", str(known_mesh)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("materials: ")]
    shares = dict(part.rsplit(" ", 1) for part in line.removeprefix("materials: ").split(", "))
    assert set(shares) == {"massive", "wood", "unknown"}
    # the floor's solid angle as seen from 1.2 m above it, by the four rectangles below (Oosterom and Strackee 1983)
    x, y = np.array([2.0, 4.0]), np.array([1.5, 2.5])
    corners = [np.arctan(a * b / (1.2 * np.sqrt(a**2 + b**2 + 1.2**2))) for a in x for b in y]
    assert float(shares["wood"].rstrip("%")) == pytest.approx(100 * sum(corners) / (4 * np.pi), abs=0.2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--channels", "colour"], "--channels is 'colour' but must be none, normals, materials or normals,materials"),
        (["--channels", "materials", "--geometry", "none"], "studio/base: channels materials need a geometry with"),
        (["--channels", "normals", "--method", "statistics"], "--channels does not go with statistics"),
    ],
)
def test_bad_input_is_one_line_before_any_training(more, message, options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        finetune(*options, *more)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_every_bundled_weight_is_read_and_what_reads_channels_is_zero():
    backbone = load_backbone("small")
    weight = backbone.get_parameter(f"{SURFACES}.weight")
    assert not weight.any()
    assert not weight.requires_grad
    made = json.loads((Path(__file__).parents[1] / "haa_peft/model/weights/small.json").read_text())
    assert fingerprint(backbone) == made["fingerprint"]
