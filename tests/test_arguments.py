"""What is typed: examples, old names, settings as flags."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from haa_peft.cli import OLD_NAMES, main, make_parser
from haa_peft.commands.adapt import parse_arguments
from haa_peft.errors import InputError
from haa_peft.fields import check, new_names
from haa_peft.studies.read import read_fields

FIRST = ["adapt", "evaluate", "predict", "adapters", "geometry", "study", "pretrain"]
VERBS = [*FIRST, "listen", "auralise", "map", "suggest", "import", "download", "push", "pull", "serve"]
ACTIONS = [
    *(["adapters", action] for action in ("list", "show", "verify", "blend", "match")),
    *(["pretrain", action] for action in ("simulate", "card", "evaluate")),
]


def printed(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_verbs(capsys):
    shown = printed(["--help"], capsys)
    groups = [part.splitlines() for part in shown.split("\n\n") if not part.startswith(("example", "usage", "options"))]
    assert [line.split()[0] for _, *lines in groups for line in lines] == VERBS
    assert [line.split()[0] for line in groups[1][1:]] == FIRST
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), *ACTIONS], ids=" ".join)
def test_help_begins_with_an_example_that_parses(verb, capsys):
    first = printed([*verb, "--help"], capsys).splitlines()[0]
    command = shlex.split(first.removeprefix("example: "))
    assert command[: 1 + len(verb)] == ["haa-peft", *verb]
    make_parser().parse_args(command[1:])


def test_what_people_use_comes_first(capsys):
    usual = printed(["adapt", "--help"], capsys).split("options:\n")[1].split("\n\n")[0]
    flags = {line.split()[0] for line in usual.splitlines() if line.startswith("  --")}
    assert {"--room", "--name", "--store", "--backbone", "--rank", "--k", "--shots", "--seed", "--json"} < flags
    assert len(flags) <= 13


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("finetune --room a", "adapt a"),
        ("adapt --room a", "adapt a"),
        ("render a/b --position 1 1 1 --out a.wav", "predict a/b --position 1 1 1 --out a.wav"),
        ("blend a --of a/b c/d --shares 0.4 0.6", "adapters blend a --of a/b c/d --shares 0.4 0.6"),
        ("identify a --shots 3", "adapters match a --shots 3"),
        ("geometry-from-sound a --no-floor", "geometry a --from-sound --no-floor"),
        ("simulate --rooms 25 --out a", "pretrain simulate --count 25 --out a"),
        ("corpus-card a", "pretrain card a"),
        ("evaluate-backbone a --rooms 3", "pretrain evaluate a --count 3"),
        ("adapt --least-gain 0.01", "adapt --min-delta 0.01"),
        ("adapt --averaging 0.5", "adapt --ema-decay 0.5"),
        ("adapt --checkpointing", "adapt --gradient-checkpointing"),
    ],
)
def test_old_names_do_the_same_and_say_the_new_one(old, new, capsys, monkeypatch):
    found = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, given: parsed(self, given, found))
    for line in (old, new):
        main(line.split())
    assert {**vars(found[0]), "command": 0} == {**vars(found[1]), "command": 0}
    assert found[0].command.__name__ == found[1].command.__name__
    said = capsys.readouterr().err
    assert said == "" if old == "adapt --room a" else all(f"note: {name} " in said for name in replaced(old, new))


def parsed(parser, given, found):
    args, left = parser.parse_known_args(given)
    assert not left
    found.append(args)
    return argparse.Namespace(command=lambda args: None)


def replaced(old, new):
    """Names in an old command line that the new one has not."""
    names = [word for word in old.split() if word.startswith("--") and word not in new.split()]
    verb = old.split()[0]
    return [f"haa-peft {verb}"] if verb in OLD_NAMES else names


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("adapt --rank x", "--rank is 'x' but must be a whole number; see haa-peft adapt --help"),
        ("adapt --lr fast", "--lr is 'fast' but must be a number; see"),
        ("adapt --ranks energy_blend", "--ranks is 'energy_blend' but must be LAYER=RANK"),
        ("adapt --method lorry", "--method: invalid choice: 'lorry' (choose from"),
        ("adapt --max-steps 0", "--max-steps is 0 but must be at least 1"),
        ("adapters show", "the following arguments are required: NAME; see haa-peft adapters show --help"),
        ("geometry a --no-floor", "--no-floor goes with --from-sound"),
        ("geometry a --from-sound --png a.png", "--png does not go with --from-sound"),
        ("study nowhere.yaml --workers 0", "--workers is 0 but must be at least 1"),
        ("study nowhere.yaml", "nowhere.yaml: no such file"),
        ("pretrain simulate --count 0 --out a", "--count is 0 but must be at least 1"),
    ],
)
def test_errors_are_one_line(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_a_method_without_ranks_has_no_rank(capsys):
    assert "rank" in parse_arguments("lora", "", [])
    assert "rank" not in parse_arguments("full", "", [])
    with pytest.raises(SystemExit):
        parse_arguments("full", "", ["--rank", "2"])
    assert "unrecognized arguments: --rank 2" in capsys.readouterr().err


@dataclass
class Pipe:
    length: Annotated[float, Field(gt=0, le=20, description="m")] = 1.0
    stops: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="numbers")] = ()
    wood: Annotated[Literal["oak", "fir"], Field(description="what it is made of")] = "oak"
    open: Annotated[bool, Field(description="at its end")] = True
    voicing: Annotated[int | None, Field(description="if known")] = None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 0}, "length is 0 but must be above 0 and at most 20"),
        ({"length": float("nan")}, "length is nan but must be above 0"),
        ({"length": True}, "length is True but must be a number"),
        ({"length": "long"}, "length is 'long' but must be a number"),
        ({"stops": 3}, r"stops is 3 but must be a list, such as \[3\]"),
        ({"stops": [4, 0]}, "stops holds 0 but must be at least 1"),
        ({"stops": [1.5]}, "stops holds 1.5 but must be a whole number"),
        ({"wood": "tin"}, "wood is 'tin' but must be one of oak, fir"),
        ({"open": 1}, "open is 1 but must be true or false"),
        ({"voicing": "1e-1"}, "voicing is 0.1 but must be a whole number"),
    ],
)
def test_a_file_is_held_to_the_fields(given, message):
    with pytest.raises(InputError, match=message):
        read_fields(Pipe, given)


def test_what_a_file_may_say():
    assert read_fields(Pipe, {"length": "1e-1", "stops": [8, 4], "wood": "fir", "voicing": None, "more": 1}) == {
        "length": 0.1, "stops": (8, 4), "wood": "fir", "voicing": None,
    }  # fmt: skip
    check(Pipe())
    with pytest.raises(InputError, match="--length is 21 but must be above 0 and at most 20"):
        check(Pipe(length=21))


def test_old_keys():
    old = {"training": {"least_gain": 0.1, "averaging": 0.9, "lr": 1}, "sources": [{"averaging": 0}]}
    new = {"training": {"min_delta": 0.1, "ema_decay": 0.9, "lr": 1}, "sources": [{"ema_decay": 0}]}
    assert new_names(old) == new
