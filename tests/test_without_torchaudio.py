"""Nothing on the way from an installation to an adapter or a prediction imports torchaudio."""

import importlib.util
import subprocess
import sys

import pytest

CODE = """
import importlib, pkgutil, sys

sys.modules["torchaudio"] = None  # an import of it, or of its modules, raises ModuleNotFoundError

import haa_peft
from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.rooms.transform import scaled

for module in pkgutil.walk_packages(haa_peft.__path__, "haa_peft."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # an extra that is not installed
        assert not error.name.startswith("torchaudio"), error

main(["adapters", "list"])
room = load_room(sys.argv[1])
scaled(room, 1.1)
RoomPredictor.load("classroom-twin/base").predict(room.positions[:1])
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rooms_adapters_and_predictions(room_folder):
    done = run(CODE, room_folder)
    assert done.returncode == 0, done.stderr
    assert "classroom-twin/base" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")
def test_what_is_installed_beside_does_not_import_it_either(room_folder):
    seen = CODE.replace('sys.modules["torchaudio"] = None', "") + '\nassert "torchaudio" not in sys.modules'
    done = run(seen, room_folder)
    assert done.returncode == 0, done.stderr
