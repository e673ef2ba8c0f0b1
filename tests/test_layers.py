"""Imports go up the order of folders, the core goes without its satellites, and functions fit a screen."""

import ast
import json
import os
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

from haa_peft.satellites import SATELLITES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "haa_peft"
LAYERS = (
    ("errors",),
    ("files", "fields", "checks", "satellites"),
    ("environment",),
    ("acoustics",),
    ("geometry",),
    ("rooms",),
    ("model",),
    ("adapters",),
    ("training",),
    ("store",),
    ("inference",),
    ("evaluation",),
    ("adapted_room",),
    ("main_job", "adapt_room"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""The core as data goes down it; a module imports from its own folder and from those before it."""
NEEDS = {
    "listening": {"importing", "rendering"},
    "hub": {"describing"},
    "importing": {"findings"},
    "maps": {"exporting", "levels"},
    "matching": {"levels"},
    "page": {"exporting", "listening", "maps"},
    "pretraining": {"simulation", "geometry.estimate"},
    "studies": {"augmentation", "borrowing", "geometry.estimate", "levels"},
}
"""Satellites that others import."""
LONGEST = 60
"""Lines of a function, its docstring included."""


def modules():
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports():
    """Triples of a module, one that it imports, both without ``haa_peft.``, and whether inside a function."""
    every, found = modules(), set()
    for name, path in every.items():
        tree = ast.parse(path.read_text())
        inner = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
                 for node in ast.walk(function)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                of = [f"{node.module}.{alias.name}" for alias in node.names]
                named = [one if one in every or f"{one}.__init__" in every else node.module for one in of]
            else:
                continue
            for other in named:
                if other.startswith("haa_peft."):
                    short = [part.removeprefix("haa_peft.").removesuffix(".__init__") for part in (name, other)]
                    found.add((*short, id(node) in inner))
    return found


def satellite_of(module):
    return next((name for name in SATELLITES if module == name or module.startswith(f"{name}.")), None)


def layer(module):
    part = module.partition(".")[0]
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_every_part_is_a_layer_or_a_satellite():
    parts = {name.removeprefix("haa_peft.") for name in modules()} - {"__init__"}
    for module in parts:
        assert satellite_of(module) or layer(module) is not None
    for name in SATELLITES:
        assert (PACKAGE / name.replace(".", "/") / "__init__.py").is_file()


def test_the_core_imports_along_its_order():
    wrong = [
        f"{module} imports {other}"
        for module, other, _ in imports()
        if not satellite_of(module) and not satellite_of(other) and module != "__init__"
        and layer(other) > layer(module)
    ]  # fmt: skip
    assert not wrong


def test_no_module_of_the_core_imports_a_satellite():
    """The command line alone does, inside the functions that are commands of a satellite."""
    wrong = [
        f"{module} imports {other}"
        for module, other, inside in imports()
        if not satellite_of(module) and satellite_of(other) and not (inside and layer(module) >= layer("commands"))
    ]
    assert not wrong


def test_satellites_need_few_others():
    wrong = [
        f"{module} imports {other}"
        for module, other, _ in imports()
        if satellite_of(module) and satellite_of(other) not in (None, satellite_of(module))
        and satellite_of(other) not in NEEDS.get(satellite_of(module), ())
    ]  # fmt: skip
    assert not wrong


def test_no_module_imports_itself_by_way_of_others():
    graph = TopologicalSorter()
    for module, other, _ in imports():
        graph.add(module, other)
    graph.prepare()  # raises CycleError


def test_functions_fit_a_screen():
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines, more than {LONGEST}"
        for folder in ("haa_peft", "recipes", "docs", ".ci")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST
    ]
    assert not long


ALONE = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
"""
"""Or what is not in the copy would be found where the package is installed from."""


@pytest.fixture
def without(tmp_path):
    """Gives a function that copies the package without some satellites, and one that runs Python with the copy."""

    def copy(*satellites):
        shutil.copytree(PACKAGE, tmp_path / "copy" / "haa_peft", ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / "copy" / "sitecustomize.py").write_text(ALONE)
        for name in satellites:
            shutil.rmtree(tmp_path / "copy" / "haa_peft" / name.replace(".", "/"))

        def run(*arguments):
            environment = {**os.environ, "PYTHONPATH": str(tmp_path / "copy"), "HAA_PEFT_CACHE": str(tmp_path)}
            return subprocess.run(
                [sys.executable, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True
            )

        return run

    return copy


CORE = """
import sys
import haa_peft
from haa_peft.cli import main

copy, room, backbone = sys.argv[1:]
assert haa_peft.__file__.startswith(copy)
main(["finetune", "--room", room, "--backbone", backbone, "--store", "store", "--max-steps", "2", "--k", "2"])
main(["evaluate", room, "--adapter", "studio/base", "--backbone", backbone, "--store", "store", "--k", "2"])
predictor = haa_peft.RoomPredictor.load("studio/base", store="store", backbone=backbone)
print("predicted", predictor.predict([[1.0, 1.0, 1.0], [2.0, 3.0, 1.5]]).shape)
for needing in (
    lambda: predictor.predict_many([("studio/base", [[1.0, 1.0, 1.0]])]),
    lambda: predictor.predict([[1.0, 1.0, 1.0]], sample_rate=48000),
    lambda: predictor.predict_left_out(),
):
    try:
        needing()
    except haa_peft.InputError as error:
        print(error)
"""


def test_the_core_works_without_any_satellite(without, room_folder, tiny_backbone_file, tmp_path):
    run = without(*SATELLITES)
    done = run("-c", CORE, tmp_path / "copy", room_folder, tiny_backbone_file)
    assert done.returncode == 0, done.stderr
    assert "| studio/base" in done.stdout
    assert "measurements of studio/base are not checked" in done.stdout
    assert "levels are not fitted" in done.stdout
    assert "predicted (2, 9600)" in done.stdout
    for name in ("serving", "rendering", "maps"):
        assert f"needs the folder haa_peft/{name}, which this installation is without" in done.stdout
    assert not (tmp_path / "store" / "studio" / "base" / "README.md").exists()


COMMANDS = """
import contextlib, io, json, runpy, sys
from haa_peft.cli import main

for arguments in json.loads(sys.argv[1]):
    status, said = 0, io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if arguments[0].endswith(".py"):
                sys.argv = arguments
                runpy.run_path(arguments[0], run_name="__main__")
            else:
                main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    print(json.dumps([status, said.getvalue()]))
"""
"""Run one after the other; prints the status of each and what it wrote to stderr."""
FULL_LENGTH = [
    "predict", "classroom-twin/base", "--store", str(ROOT / "adapters"), "--position", "3", "2", "1.3",
    "--length", "full", "--out", "rir.wav",
]  # fmt: skip
NEEDING = [
    ("simulation", ["evaluate", "classroom-twin/base"]),
    ("augmentation", ["adapt", "ROOM", "--augment", "mirror"]),
    ("sensitivity", ["adapt", "ROOM", "--freeze", "auto", "--max-steps", "1"]),
    ("borrowing", ["adapt", "ROOM", "--borrow", "studio/panel", "--max-steps", "1"]),
    ("downloads", ["download", "haa"]),
    ("pretraining", ["pretrain", "evaluate", "corpus"]),
    ("geometry.estimate", ["geometry", "ROOM"]),
    ("studies", [str(ROOT / "recipes" / "compare_full_vs_adapter.py"), "--study", "study.yaml"]),
    ("geometry.estimate", ["evaluate", "ROOM", "--geometry", "depth.npy"]),
    ("geometry.estimate", ["evaluate", "ROOM", "--geometry", "sound"]),
    ("geometry.estimate", ["geometry", "ROOM", "--from-sound"]),
    ("importing", ["import", "room.sofa", "--out", "studio/base"]),
    ("levels", FULL_LENGTH),
    ("exporting", ["predict", "studio/base", "--grid", "1", "--out", "rirs.npz"]),
    ("hub", ["push", "studio/base", "user/rooms"]),
    ("hub", ["pull", "user/rooms"]),
    ("hub", ["predict", "hf://user/rooms/studio/base", "--position", "1", "1", "1", "--out", "rir.wav"]),
    ("matching", ["adapters", "match", "ROOM"]),
    ("listening", ["auralise", "studio/base", "--position", "1", "1", "1", "--out", "heard.wav"]),
    ("page", ["listen", "studio/base"]),
    ("maps", ["suggest", "studio/base"]),
    ("serving", ["serve", "store"]),
    ("maps", ["map", "studio/base", "--out", "map.png"]),
]  # fmt: skip
"""Satellites, and commands that cannot do without."""


@pytest.mark.parametrize(
    ("missing", "needing"),
    [
        (SATELLITES, NEEDING),
        (["describing"], [("describing", ["push", "studio/base", "user/rooms"])]),
        (["findings"], [("findings", ["import", "room.sofa", "--out", "studio/base"])]),
        (["simulation"], [("simulation", ["pretrain", "simulate", "--count", "1", "--out", "corpus"])]),
        (["rendering"], [("rendering", FULL_LENGTH)]),
    ],
    ids=["all", "describing", "findings", "simulation", "rendering"],
)
def test_what_a_missing_satellite_is_needed_for_is_said_in_one_line(missing, needing, without, room_folder, tmp_path):
    np.save(tmp_path / "depth.npy", np.full((32, 64), 2.0))
    commands = [[str(room_folder) if one == "ROOM" else one for one in arguments] for _, arguments in needing]
    done = without(*missing)("-c", COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, arguments), (status, said) in zip(needing, answers, strict=True):
        assert status == 2, f"{arguments}: {said}"
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert f"needs the folder haa_peft/{name.replace('.', '/')}," in said
