"""From an installation to an adapter and a prediction, torchaudio may be missing or made for another torch."""

import subprocess
import sys

import pytest

CODE = """
import importlib, pkgutil, sys

import haa_peft
from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.augmentation.transform import scaled

for module in pkgutil.walk_packages(haa_peft.__path__, "haa_peft."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # an extra that is not installed
        assert not error.name.startswith("torchaudio"), error

folder, store = sys.argv[1:]
main(["adapters", "list"])
scaled(load_room(folder), 1.1)
main(["adapt", "--room", folder, "--max-steps", "1", "--shots", "2", "--k", "1", "--store", store])
RoomPredictor.load("studio/base", store=store).predict([[2.5, 2.0, 1.0]])
"""


def run(code, room_folder):
    command = [sys.executable, "-c", code, str(room_folder), str(room_folder.parent / "adapters")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "classroom-twin/base" in done.stdout
    assert (room_folder.parent / "adapters" / "studio" / "base" / "card.json").exists()


@pytest.mark.slow
def test_missing(room_folder):
    run('import sys; sys.modules["torchaudio"] = None' + CODE, room_folder)


@pytest.mark.slow
def test_made_for_another_torch(room_folder, broken_torchaudio):
    run(CODE + "import transformers.audio_utils", room_folder)


def test_one_that_does_not_load_stays_what_it_is(broken_torchaudio):
    """Who needs it learns why it does not load."""
    code = "import haa_peft.adapters.lora as adapters; adapters.import_peft(); import torchaudio"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OSError: libtorch_cuda.so" in done.stderr.splitlines()[-1]
