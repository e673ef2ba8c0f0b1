"""Packages that are installed and do not load, made up on the path of a process."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from haa_peft.environment import EnvironmentProblem, loading
from haa_peft.errors import InputError

ROOT = Path(__file__).parents[1]
RENDER = ["-m", "haa_peft.cli", "predict", "classroom-twin/base", "--position", "1", "1", "1", "--out", "rir.wav"]
NO_OPERATOR = 'raise RuntimeError("operator torchvision::nms does not exist")'


@pytest.fixture
def install(tmp_path):
    """Gives a function that puts a package on the path: its name, its version, its code, what it needs."""

    def put(name, version, code, *needs):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        about = tmp_path / f"{name}-{version}.dist-info"
        about.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (about / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]))

    return put


@pytest.fixture
def run(tmp_path):
    """Gives a function that runs Python with those packages before the installed ones: status, stdout, stderr."""

    def start(*arguments):
        path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "HAA_PEFT_STORE": str(ROOT / "adapters")}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return start


def one_line(outcome):
    status, _, told = outcome
    assert status == 2, told
    assert told.startswith("error: ")
    assert told.count("\n") == 1, told
    return told


@pytest.mark.slow
def test_a_torchvision_of_another_torch(install, run, room_folder):
    """Peft imports transformers, which imports torchvision where there is one."""
    install("torchvision", "0.27.0", NO_OPERATOR, "numpy", "torch (==2.12.0)")
    for entry in (["-m", "haa_peft.cli", "adapt"], [ROOT / "recipes" / "finetune_lora.py"]):
        told = one_line(run(*entry, "--room", room_folder, "--max-steps", 1, "--name", "studio/base@trial"))
        assert f"torchvision 0.27.0 does not load beside torch {importlib.metadata.version('torch')}" in told
        assert "operator torchvision::nms does not exist" in told
        assert "pip uninstall torchvision" in told


def test_a_torch_that_does_not_load(install, run):
    install("torch", "2.9.0", 'raise OSError("libcudart.so.12: cannot open shared object file")', "numpy")
    recipe = [ROOT / "recipes" / "pretrain_backbone.py"]
    study = [ROOT / "recipes" / "compare_full_vs_adapter.py", "--study", "x.yaml"]
    for arguments in (RENDER, recipe, study):
        told = one_line(run(*arguments))
        assert "torch 2.9.0 does not load beside numpy" in told
        assert "libcudart.so.12: cannot open shared object file" in told
        assert "pip install --force-reinstall" in told
    for name in ("RoomPredictor", "load_room"):
        code = f"try:\n    from haa_peft import {name}\nexcept ImportError as e:\n    print(type(e).__name__, e)"
        status, out, told = run("-c", code)
        assert (status, told) == (0, "")
        assert out.startswith("EnvironmentProblem torch 2.9.0 does not load")
        assert out.count("\n") == 1
    status, out, _ = run("-m", "haa_peft.cli", "adapters", "list")
    assert status == 0
    assert "classroom-twin/base" in out


def test_a_sound_library_that_does_not_load(install, run):
    install("soundfile", "0.12.1", 'raise OSError("sndfile library not found")', "cffi", "numpy")
    told = one_line(run(*RENDER))
    assert "soundfile 0.12.1 does not load beside numpy" in told
    assert "sndfile library not found" in told
    assert "pip install --force-reinstall" in told


@pytest.mark.parametrize(
    ("packages", "parts"),
    [
        (
            [("soxr", "1.0.0", 'raise ImportError("undefined symbol: _ZN3soxE", name="soxr.soxr_ext")', ["numpy"])],
            ["soxr 1.0.0 does not load beside numpy", "undefined symbol: _ZN3soxE", "--force-reinstall"],
        ),
        (
            [
                ("soxr", "1.0.0", "", ["numpy"]),
                ("peft", "0.5.0", "import soxr\nfrom accelerate import gone", ["torch", "accelerate"]),
                ("accelerate", "0.9.0", "", ["torch"]),
            ],
            ["peft 0.5.0 does not load beside accelerate 0.9.0", "cannot import name 'gone'", "haa-peft needs peft",
             "haa-peft needs accelerate", '--force-reinstall "peft'],
        ),
        (
            [("torch", "2.13.0+cpu", "raise OSError('libgomp.so.1')", ["numpy"])],
            ["`pip install --force-reinstall torch==2.13.0+cpu`, with the --index-url that this build came from, "],
        ),
        (
            [("torch", "2.0.0+cpu", "raise OSError('libgomp.so.1')", ["numpy"])],
            ["haa-peft needs torch>=", '`pip install --force-reinstall "torch>=2.5"` mends it'],
        ),
        (
            [("peft", "0.21.0", "import absent_package", [])],
            ["peft 0.21.0 needs the package absent_package, which is not installed", "pip install absent_package"],
        ),
        (
            # an import that is tried and done without is not what failed
            [("peft", "0.21.0", "try:\n    import absent_package\nexcept ImportError:\n    raise OSError('real')", [])],
            ["peft 0.21.0 does not load", "OSError: real"],
        ),
        (
            [("soxr", "0.3", "raise ValueError('numpy.dtype size changed')", []), ("peft", "0.21", "import soxr", [])],
            ["soxr 0.3 does not load beside numpy", "numpy.dtype size changed"],
        ),
    ],
)  # fmt: skip
def test_what_a_package_says_when_it_does_not_load(packages, parts, install, run):
    for name, version, code, needs in packages:
        install(name, version, code, *needs)
    last = "peft" if len(packages) > 1 else packages[0][0]
    code = f"from haa_peft.commands.ending import command\nwith command():\n    import {last}"
    told = one_line(run("-c", code))
    for part in parts:
        assert part in told


def test_bugs_of_our_own_are_not_taken_for_it(tmp_path, monkeypatch):
    def missing_name():
        from haa_peft.errors import nothing_of_that_name  # noqa: F401

    def missing_module():
        import haa_peft.nothing_of_that_name  # noqa: F401

    def undeclared():
        import nothing_of_that_name  # noqa: F401

    def name_of_another():
        from torch import nothing_of_that_name  # noqa: F401

    for bug, kind in (
        (lambda: 1 / 0, ZeroDivisionError),
        (lambda: subprocess.run([sys.executable, "-c", "1 / 0"], check=True, stderr=-3), subprocess.SubprocessError),
        (missing_name, ImportError),
        (missing_module, ModuleNotFoundError),
        (undeclared, ModuleNotFoundError),
        (name_of_another, ImportError),
    ):
        with pytest.raises(kind) as raised, loading():
            bug()
        assert not isinstance(raised.value, EnvironmentProblem)


def test_no_adapter_is_blamed(install, run):
    install("safetensors", "0.5.0", 'raise ImportError("undefined symbol: PyType_GetName", name="safetensors._rust")')
    status, out, told = run("-m", "haa_peft.cli", "adapters", "verify")
    assert (status, out) == (2, "")
    assert told.startswith("error: safetensors 0.5.0 does not load (ImportError: undefined symbol: PyType_GetName)")
    assert issubclass(EnvironmentProblem, ImportError)
    assert not issubclass(EnvironmentProblem, InputError)
