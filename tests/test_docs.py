"""What README and docs say can be done: commands parse, Python runs, links lead somewhere.

A command is given to the real parser with an option that nothing has: it must object to that one alone.
"""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from haa_peft.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
RESULTS = sorted((ROOT / "recipes" / "results").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
RECIPE = re.compile(r"(?:accelerate launch|python3?) (?:.*? )?(recipes/\w+\.py)(.*)")
UNKNOWN = "--no-such-option"


def blocks(page, language):
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page):
    """Every command of a page's plain blocks that is the package's, one line each."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if part.startswith("haa-peft ") or RECIPE.search(part):
                    yield part.split(" # ")[0].strip()


COMMANDS = sorted({command for page in PAGES + RESULTS for command in commands(page)})


def parse(command, monkeypatch):
    """Run a command up to its parser; the exit status."""
    if command.startswith("haa-peft "):
        run, arguments = main, [*shlex.split(command)[1:], UNKNOWN]
    else:
        recipe, given = RECIPE.search(command).groups()
        assert (ROOT / recipe).exists(), recipe
        arguments = [*shlex.split(given), UNKNOWN]
        monkeypatch.setattr(sys, "argv", [recipe, *arguments])

        def run(_):
            runpy.run_path(str(ROOT / recipe), run_name="__main__")

    with pytest.raises(SystemExit) as ended:
        run(arguments)
    return ended.value.code


def objects_to_that_alone(printed):
    """Whether all that a parser wrote is about the option that nothing has; old names would give a note."""
    last = printed.strip().splitlines()[-1].split("error: ")[-1].lower()
    return "note:" not in printed and re.fullmatch(rf"unrecognized arguments: {UNKNOWN}(; see .*)?", last) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(command, monkeypatch) == 2
    printed = capsys.readouterr().err
    assert objects_to_that_alone(printed), printed


@pytest.mark.parametrize("command", ["haa-peft adapters lists", "python recipes/finetune_lora.py --rom studio"])
def test_commands_that_are_wrong_do_not(command, monkeypatch, capsys):
    assert parse(command, monkeypatch) == 2
    assert not objects_to_that_alone(capsys.readouterr().err)


def test_readme_opens_with_the_two_commands_and_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    make = "python3 -m venv .venv && . .venv/bin/activate && "
    assert make + "pip install -e . && accelerate launch recipes/finetune_lora.py" in text.splitlines()
    assert make + 'pip install -e ".[test]" && python -m pytest' in text.splitlines()
    assert len(text.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page):
    for block in blocks(page, "python"):
        ast.parse(block)


def test_readmes_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = blocks(ROOT / "README.md", "python")
    after = {}
    exec(compile(block, "README.md", "exec"), after)
    assert after["rirs"].shape == after["with_panel"].shape == (2, 9600)
    assert abs(after["rirs"] - after["with_panel"]).max() > 0.01 * abs(after["rirs"]).max()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_of_the_package_exist(page):
    """Blocks that need data are not run, but what they import from here must be there."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("haa_peft"):
                exec(ast.unparse(node), {})


@pytest.mark.parametrize("page", PAGES + RESULTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """Headings as GitHub names them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_picture_of_readme_can_be_drawn(monkeypatch, capsys, tmp_path):
    """The recipe that drew it, with a pack that the repository ships and that pack's own room."""
    pytest.importorskip("matplotlib")
    from PIL import Image

    out = tmp_path / "room.png"
    arguments = ["classroom-twin/base", "--adapter", "classroom-twin/base", "--store", str(ROOT / "adapters"), "--step"]
    monkeypatch.setattr(sys, "argv", ["draw_room.py", *arguments, "2", "--out", str(out)])
    runpy.run_path(str(ROOT / "recipes" / "draw_room.py"), run_name="__main__")
    assert "classroom-twin/base" in capsys.readouterr().out
    with Image.open(out) as picture, Image.open(ROOT / "docs" / "pictures" / "r3vival-050.png") as shown:
        assert picture.size == shown.size
        assert len(picture.convert("RGB").resize((60, 20)).getcolors(60 * 20)) > 20  # curves and a map, no blank page
