import json

import pytest

from haa_peft.finetune import run


def finetune(*arguments):
    run("lora", "", [str(argument) for argument in arguments])


@pytest.fixture
def options(room_folder, tiny_backbone_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--room", room_folder, "--backbone", tiny_backbone_file, "--k", 4, "--max-steps", 2, "--validate-every", 1]


def test_a_room_without_test_positions(options, room_folder, tmp_path, capsys):
    description = json.loads((room_folder / "room.json").read_text())
    splits = {"train": list(range(12)), "valid": list(range(12, 20)), "test": []}
    (room_folder / "room.json").write_text(json.dumps({**description, "splits": splits}))
    finetune(*options, "--json", "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["room"], report["positions"], report["rows"]) == ("studio", 0, [])
    assert report["training"]["steps"] == 2
    assert "no test positions" in capsys.readouterr().out
    assert (tmp_path / "adapters" / "studio" / "base" / "card.json").exists()


def test_resuming_without_a_log(options, tmp_path):
    finetune(*options)
    (tmp_path / "runs" / "studio" / "base" / "log.jsonl").unlink()
    finetune(*options, "--resume")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rank", 0], "--rank is 0 but must be at least 1"),
        (["--rank", 10**9], "--rank is 1000000000 but must be at most 4096"),
        (["--name", "../x/y"], "'../x/y' must be room/configuration"),
        (["--k", 12], "12 training measurements are fewer than K + 1 = 13"),
        (["--shots", 13], "--shots is 13 but studio/base has 12"),
        (["--shots", 1], "training needs at least 2"),
        (["--store", "file"], "file is no folder"),
        (["--run-dir", "file"], "file is no folder"),
        (["--json", "file/report.json"], "file is no folder"),
        (["--seed", 2**32], "--seed is 4294967296"),
        (["--weight-decay", "nan"], "--weight-decay is nan"),
        (["--resume"], "no checkpoint to resume from"),
    ],
)
def test_bad_input_is_one_line_before_any_training(more, message, options, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        finetune(*options, *more)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "adapters").exists()
