import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from haa_peft import load_room
from haa_peft.cli import main
from haa_peft.store.folder import write_pack
from tests.store.test_store import NAME, make_pack


@pytest.fixture
def store(room_folder, tiny_backbone, tiny_backbone_file, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    write_pack(folder, make_pack(load_room(room_folder), tiny_backbone))
    monkeypatch.setenv("HAA_PEFT_STORE", str(folder))
    return folder


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_evaluate_is_deterministic(store, room_folder, tiny_backbone_file, tmp_path, capsys):
    reports = []
    for name in ("first.json", "second.json"):
        main(["evaluate", str(room_folder), "--adapter", "studio/base", "--backbone", str(tiny_backbone_file),
              "--k", "4", "--json", str(tmp_path / name)])  # fmt: skip
        reports.append((tmp_path / name).read_text())
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert [row["predictor"] for row in report["rows"]] == ["nearest", "linear", "energy", "backbone", "studio/base"]
    assert report["training"]["k"] == 4
    assert report["k"] == 4
    assert "| studio/base |" in capsys.readouterr().out


def test_evaluate_without_an_adapter(room_folder, tiny_backbone_file, capsys):
    main(["evaluate", str(room_folder), "--backbone", str(tiny_backbone_file), "--split", "valid"])
    out = capsys.readouterr().out
    assert "4 valid positions" in out
    assert "backbone" in out


def test_predict(store, tiny_backbone_file, tmp_path, capsys):
    out = tmp_path / "rir.wav"
    main(
        [
            "predict",
            "studio/base",
            "--position",
            "1",
            "1",
            "1",
            "--out",
            str(out),
            "--backbone",
            str(tiny_backbone_file),
        ]
    )
    rir, rate = soundfile.read(out, dtype="float32")
    assert (rir.shape, rate) == ((9600,), 22_050)
    assert soundfile.info(out).subtype == "FLOAT"
    # direct sound 1.1 m from the receiver, though not the loudest from a network of random weights
    onset = (np.abs(rir) > 0.2 * np.abs(rir).max()).argmax()
    assert abs(onset - np.linalg.norm([1.0, 0.5, 0.2]) / 343 * rate) < 32


def test_adapters(store, tiny_backbone_file, capsys):
    main(["adapters", "list"])
    assert "| studio/base |   lora |" in (out := capsys.readouterr().out)
    assert out.splitlines()[-1].endswith("|        - |")  # a card that says nothing of validation
    main(["adapters", "show", "studio/base"])
    assert json.loads(capsys.readouterr().out)["name"] == "studio/base"
    main(["adapters", "verify", "--backbone", str(tiny_backbone_file)])
    assert capsys.readouterr().out == "studio/base: ok\n"


def test_verify_fails_on_a_damaged_adapter(store, tiny_backbone_file, capsys):
    path = NAME.folder(store) / "references.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit) as stopped:
        main(["adapters", "verify", "--backbone", str(tiny_backbone_file)])
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert "FAILED studio/base: references.safetensors is not the file" in captured.out
    assert "1 of 1 adapters cannot be used" in captured.err
    (NAME.folder(store) / "card.json").unlink()
    with pytest.raises(SystemExit):
        main(["adapters", "list"])
    assert "| studio/base | damaged |" in capsys.readouterr().out
    (NAME.folder(store) / "card.json").write_text('{"schema": 3}')
    with pytest.raises(SystemExit):
        main(["adapters", "list"])
    out = capsys.readouterr().out
    assert "| studio/base |  newer |" in out
    assert out.endswith("\nnewer: made by a newer haa-peft; update\n")


def test_the_list_fits_a_terminal(capsys):
    main(["adapters", "list", "--store", str(Path(__file__).parents[1] / "adapters")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 8
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere: no such room folder"),
        (["evaluate", "ROOM", "--k", "13"], "--k is 13 but studio/base has 12"),
        (["evaluate", "ROOM", "--adapter", "../x/y"], "'../x/y' must be room/configuration"),
        (["evaluate", "ROOM", "--adapter", "studio/base"], "was made for the backbone 'untrained'"),
        (["evaluate", "ROOM", "--backbone", "gone.pth"], "'gone.pth': no such file, nor a bundled one"),
        (["adapters", "show"], "the following arguments are required: NAME"),
        (["adapters", "show", "studio/gone"], "no adapter studio/gone"),
        (["predict", "studio/base", "--position", "1", "1", "1", "--out", "rir.mp3"], "must end in .wav"),
        (
            ["predict", "studio/base", "--position", "9", "1", "1", "--out", "x.wav", "--backbone", "TINY"],
            "lies outside",
        ),
        (["download", "haa", "kitchenBase"], "kitchenBase"),
    ],
)
def test_bad_input_is_one_line(arguments, message, store, room_folder, tiny_backbone_file, capsys):
    places = {"ROOM": room_folder, "TINY": tiny_backbone_file}
    assert message in fails([places.get(argument, argument) for argument in arguments], capsys)


def test_an_adapter_is_not_tested_where_it_was_trained(store, room_folder, tiny_backbone_file, capsys):
    room = load_room(room_folder)
    train, test = (room.splits[split].tolist() for split in ("train", "test"))
    description = json.loads((room_folder / "room.json").read_text())
    splits = {"train": test + train[:8], "valid": room.splits["valid"].tolist(), "test": train[8:]}
    (room_folder / "room.json").write_text(json.dumps({**description, "splits": splits}))
    arguments = ["evaluate", room_folder, "--adapter", "studio/base", "--backbone", tiny_backbone_file]
    assert "studio/base was trained on 4 of the test positions of studio/base" in fails(arguments, capsys)


def test_another_rooms_adapter_is_named(store, room_folder, tiny_backbone_file, capsys):
    room_folder.rename(room_folder.with_name("panel"))
    main(
        [
            "evaluate",
            str(room_folder.with_name("panel")),
            "--adapter",
            "studio/base",
            "--backbone",
            str(tiny_backbone_file),
        ]
    )
    assert "note: studio/base was trained on studio/base, not on studio/panel" in capsys.readouterr().out
