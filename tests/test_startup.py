"""What commands import, which is what they take before they answer; `recipes/benchmark_startup.py` measures it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import haa_peft
from haa_peft.adapters.lora import FREE, LoraSettings
from haa_peft.errors import InputError
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.parts import ADAPTER, CARD, REFERENCES, sha256

STORE = Path(__file__).parents[1] / "adapters"
TOLD = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
SLOW = {"scipy.signal", "peft", "transformers", "matplotlib", "accelerate", "datasets", "pandas"}


def loaded(code, *arguments):
    """Names of all modules that a process has imported when it ends well."""
    done = subprocess.run([sys.executable, "-c", TOLD + code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["adapters", "list"], ["adapters", "show", "classroom-twin/base"]])
def test_commands_that_compute_nothing_need_no_torch(arguments):
    place = [] if "--help" in arguments else ["--store", STORE]
    found = loaded("from haa_peft.cli import main; main(sys.argv[1:])", *arguments, *place)
    assert "haa_peft.cli" in found
    assert not found & {"torch", "scipy", *SLOW}


def test_importing_the_package_imports_nothing_else():
    assert not loaded("import haa_peft; dir(haa_peft)") & {"torch", "numpy", "scipy", *SLOW}


def test_predicting_needs_torch_alone(tmp_path):
    out = tmp_path / "rir.wav"
    predict = ["predict", "classroom-twin/base", "--position", 1, 1, 1, "--out", out, "--store", STORE]
    found = loaded("from haa_peft.cli import main; main(sys.argv[1:])", *predict)
    assert out.exists()
    assert "torch" in found
    assert not found & SLOW


def test_all_names_are_there():
    for name in haa_peft.__all__:
        assert getattr(haa_peft, name).__name__ == name
        assert name in dir(haa_peft)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        haa_peft.nothing  # noqa: B018


@pytest.mark.parametrize("file", [ADAPTER, REFERENCES])
def test_listing_sees_a_file_that_cannot_be_read_though_its_hash_is_right(file, tmp_path):
    entry = tmp_path / "classroom-twin" / "base"
    entry.mkdir(parents=True)
    for path in (STORE / "classroom-twin" / "base").iterdir():
        (entry / path.name).write_bytes(path.read_bytes())
    name = AdapterName.parse("classroom-twin/base")
    whole, listed = read_pack(tmp_path, name), read_pack(tmp_path, name, tensors=False)
    assert (listed.card, listed.scale) == (whole.card, whole.scale)
    assert whole.tensors
    assert not listed.tensors
    damaged = (entry / file).read_bytes()[:-1]
    (entry / file).write_bytes(damaged)
    card = json.loads((entry / CARD).read_text())
    card["files"][file] = sha256(damaged)
    card["digest"] = card_digest(card)
    (entry / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=f"{file} cannot be read"):
        read_pack(tmp_path, name, tensors=False)


def test_what_peft_writes_is_known_without_it():
    """Peft is the oracle for the table that stored adapters are checked with."""
    import peft

    settings = LoraSettings({"a": 4, "b": 4, "c": 2}, dropout=0.1)
    written = {key: getattr(value, "value", value) for key, value in settings.config().to_dict().items()}
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in written.items()}
    known = settings.to_json()
    assert {k: v for k, v in written.items() if v and k not in FREE} == {
        k: v for k, v in known.items() if v and k not in FREE
    }
    read = peft.PeftConfig.from_peft_type(**known)
    assert isinstance(read, type(settings.config()))
    assert set(read.target_modules) == {"a", "b", "c"}
