"""The notebooks hold nothing but their code, run anywhere in the repository and print what docs/notebooks.md shows."""

import ast
import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from draw_notebooks import NOTEBOOKS, outputs, pictures, printed, run

from haa_peft.adapted_room import LEVELS_ALONE

ROOT = Path(__file__).parents[1]
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMED = re.compile(r"[a-z]+(-[a-z]+)*")
STANDARD = {"pathlib", "shutil", "tempfile"}
BROUGHT = {"ipykernel": "IPython"}
"""What a package that is declared brings under another name."""


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def rows(text: str) -> list[dict[str, list[float]]]:
    """Numbers of every table of predictors in a text, by predictor."""
    tables = re.findall(r"^\| predictor.*\n\|-.*\n((?:\|.*\n?)+)", text, re.MULTILINE)
    split = [[line.strip("| ").split("|") for line in table.splitlines()] for table in tables]
    return [{name.strip(): [float(cell) for cell in numbers] for name, *numbers in table} for table in split]


def shown(path: Path) -> str:
    """What docs/notebooks.md says of a notebook."""
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    (section,) = (part for part in page.split("\n## ") if f"(notebooks/{path.name})" in part)
    return section


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs_and_their_cells_are_named(path):
    found = cells(path)
    assert all(cell["metadata"] == {} for cell in found)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found)
    names = [cell["id"] for cell in found]
    assert len(set(names)) == len(names)
    assert all(NAMED.fullmatch(name) for name in names)  # random ones are Jupyter's


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_import_what_is_declared(path):
    project = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11").loads(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    declared = {re.match(r"[\w-]+", need)[0] for need in needed}
    declared = {BROUGHT.get(name, name) for name in declared} | STANDARD | {"haa_peft"}
    # ast takes no shell commands ("!"), whose failures a notebook would pass over
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= declared


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_pictures_are_small_and_shown(path):
    drawn = sorted((ROOT / "docs" / "pictures").glob(f"{path.stem.replace('_', '-')}-*.png"))
    assert drawn
    assert all(picture.stat().st_size < 150_000 for picture in drawn)
    assert all(f"(pictures/{picture.name})" in shown(path) for picture in drawn)


@pytest.fixture
def start(monkeypatch):
    """Gives a function that runs a notebook somewhere, and sees to it that the repository's store stays as it is."""
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason='notebooks need `pip install "haa-peft[notebooks]"`')
    monkeypatch.delenv("HAA_PEFT_STORE", raising=False)

    def state():
        files = [*(ROOT / "adapters").rglob("*"), *NOTEBOOKS.rglob("*")]
        return {file: file.stat().st_mtime_ns for file in files if file.is_file()}

    before = state()
    yield lambda name, folder, **replaced: run(NOTEBOOKS / f"{name}.ipynb", folder, replaced)
    assert state() == before


def as_shown(notebook, name):
    """The tables that a notebook printed, which must be those of docs/notebooks.md to some percent."""
    tables, said = rows(printed(notebook)), rows(shown(NOTEBOOKS / f"{name}.ipynb"))
    for table, one in zip(tables, said, strict=True):
        assert list(table) == list(one)
        for row, numbers in table.items():
            np.testing.assert_allclose(numbers[:2], one[row][:2], rtol=0.15, atol=0.11)  # as .ci/check_table.py
    return tables


@pytest.mark.slow
def test_a_first_adapter(start):
    notebook = start("first_adapter", ROOT)
    (errors,) = as_shown(notebook, "first_adapter")
    edt, clarity = errors["classroom-twin/base"][:2]
    assert edt < min(errors["nearest"][0], errors["backbone"][0])
    assert clarity < min(errors["nearest"][1], errors["backbone"][1])
    assert len(pictures(notebook)) == 2
    values = [float(value) for value in re.findall(r"C50 +(-?[\d.]+) dB", printed(notebook))]
    assert len(values) == 3
    assert values[2] > max(values[:2])  # the dampened room is the clearest


@pytest.mark.slow
def test_measurements_of_ones_own(start, tmp_path):
    notebook = start("your_own_measurements", tmp_path)
    (errors,) = as_shown(notebook, "your_own_measurements")
    assert all(np.less(errors["studio/base"][:2], errors["nearest"][:2]))
    assert LEVELS_ALONE in errors
    text = printed(notebook)
    assert "20 RIRs" in text
    assert "as they are: 0 findings" in text
    assert "error: position: position 4:" in text
    late = re.search(r"error: latency: sound comes ([\d.]+) ms", text)
    assert float(late[1]) == pytest.approx(5, abs=0.5)  # ms, as was put in
    assert len(re.findall(r"rir_\d\.wav: 48000 Hz", text)) == 4
    assert len(pictures(notebook)) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_of_ones_own_takes_the_place_of_the_stand_in(start, tmp_path, room_folder):
    """One cell is edited, and the room has another size and receiver."""
    about = json.loads((room_folder / "room.json").read_text())
    sounds = tmp_path / "mine"
    sounds.mkdir()
    table = ["file,x_m,y_m,z_m"]
    places = np.load(room_folder / "xyzs.npy")
    for number, (rir, place) in enumerate(zip(np.load(room_folder / "RIRs.npy"), places, strict=True)):
        soundfile.write(sounds / f"a{number:02d}.wav", rir, about["sample_rate"], subtype="FLOAT")
        table.append(f"a{number:02d}.wav,{place[0]},{place[1]},{place[2]}")
    (sounds / "positions.csv").write_text("\n".join(table) + "\n")
    shutil.rmtree(room_folder)
    have = f"sounds = Path({str(sounds)!r})\nreceiver = {about['receiver_xyz']}\nroom_size = {about['room_size']}"
    text = printed(start("your_own_measurements", tmp_path, have=have))
    assert f"{len(places)} files" in text
    assert "a00.wav," in text
    assert "a box of 6.00 x 4.00 x" in text


def heard(notebook) -> list[tuple[np.ndarray, int]]:
    """Samples and rate of every player."""
    players = [one for one in outputs(notebook, "text/html") if "audio/wav" in one]
    return [soundfile.read(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", one)[1]))) for one in players]


@pytest.mark.slow
def test_variations_are_heard(start):
    notebook = start("base_and_variations", ROOT / "recipes")
    cold, warm = as_shown(notebook, "base_and_variations")
    cold, warm = cold["classroom-twin/panel@cold"], warm["classroom-twin/panel@from-base"]
    assert all(np.less(warm[:2], cold[:2]))
    assert int(re.search(r"(\d+) measurements of the base were borrowed", printed(notebook))[1]) > 0
    sounds = heard(notebook)
    assert len(sounds) == 3
    peaks = [np.abs(samples).max() for samples, _ in sounds]
    assert all(np.isfinite(samples).all() for samples, _ in sounds)
    assert max(peaks) == pytest.approx(0.9, abs=1e-3)
    assert min(peaks) > 0.1
    levels = [10 * np.log10(np.mean(samples**2)) for samples, _ in sounds[:2]]
    told = [float(level) for level in re.findall(r"(-[\d.]+) dB re full scale", printed(notebook))]
    assert levels == pytest.approx(told, abs=0.06)  # one gain: players keep the difference that was printed
    assert len(pictures(notebook)) == 2
