import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from haa_peft import RoomPredictor, load_backbone, load_room
from haa_peft.cli import main
from haa_peft.evaluation.evaluate import Metrics, errors
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName


def finetune(*arguments):
    main(["adapt", *map(str, arguments)])


def pack(name):
    return read_pack(Path("adapters"), AdapterName.parse(name))


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


def test_every_option_reaches_the_card(options, capsys):
    finetune(*options, "--method", "lora", "--rank", 2, "--ranks", "energy_blend=3", "lin_proj_1=0", "--dropout", 0.1,
             "--freeze", "early:4", "--convolutions", "--name", "studio/base@all")  # fmt: skip
    method = pack("studio/base@all").card["method"]
    assert method["method"] == "lora"
    assert (method["rank"], method["alpha"], method["dropout"]) == (2, 4.0, 0.1)
    assert method["ranks"] == {"energy_blend": 3, "lin_proj_1": 0}
    assert len(method["frozen"]) == 4
    assert "audio_enc.cnn.layer1.0.conv1" in method["targets"]
    assert not any(target.startswith(("lin_proj_1", "source_network.to_patch")) for target in method["targets"])


def test_augmentation_is_in_the_card_if_there_is_any(options, capsys):
    finetune(*options)
    assert "augment" not in pack("studio/base").card["training"]
    assert "variant" not in Path("adapters/studio/base/README.md").read_text()
    finetune(*options, "--augment", "mirror", "scale=0.2")
    assert pack("studio/base").card["training"]["augment"] == {"mirror": True, "scale": 0.2}
    page = Path("adapters/studio/base/README.md").read_text()
    assert "every other step in a variant of the room (mirror, scale 0.2)" in page
    with pytest.raises(SystemExit):
        finetune(*options, "--resume")
    assert (
        "the checkpoint's augment is {'mirror': True, 'scale': 0.2} but this run's is None" in capsys.readouterr().err
    )


def test_a_room_of_which_only_sound_is_known(options, room_folder, tiny_backbone_file, capsys):
    finetune(*options, "--geometry", "none")
    stored = pack("studio/base")
    about = stored.card["room"]["geometry"]
    assert (about["source"], about["trust"]) == ("nothing: a box around the positions", "assumed")
    room = load_room(room_folder, "none")
    np.testing.assert_array_equal(stored.geometry.depth, room.geometry.depth)
    predictor = RoomPredictor.load("studio/base", backbone=load_backbone(str(tiny_backbone_file)))
    far = predictor.predict([[40.0, 30.0, 20.0]])  # nobody knows where the walls are
    assert np.isfinite(far).all()
    evaluate = ["evaluate", str(room_folder), "--adapter", "studio/base", "--backbone", str(tiny_backbone_file)]
    main([*evaluate, "--k", "4", "--geometry", "none"])
    assert "note:" not in capsys.readouterr().out
    main([*evaluate, "--k", "4"])
    assert "other measurements, splits or geometry" in capsys.readouterr().out


def test_a_warm_start(options, capsys):
    finetune(*options)
    finetune(*options, "--name", "studio/moved", "--start", "studio/base", "--shots", 3, "--k", 2)
    card = pack("studio/moved").card
    assert card["training"]["started_from"] == "studio/base"
    assert card["room"]["shots"] == 3
    with pytest.raises(SystemExit):
        finetune(*options, "--name", "studio/moved", "--start", "studio/base", "--rank", 2)
    assert "cannot start from studio/base: its" in capsys.readouterr().err


def test_what_validation_refused_is_called_unchanged(options, room_folder, tiny_backbone_file, capsys):
    """On the screen, in table, card, page, list and report; with a reason, and advice that applies."""
    finetune(*options, "--caution", 100, "--lr", 0.01, "--levels", "none", "--json", "report.json")
    out = capsys.readouterr().out
    report = json.loads(Path("report.json").read_text())
    said = report["training"]["acceptance"]
    curve = dict(report["training"]["validation"])
    assert (said["start_loss"], said["best_loss"]) == (curve[0], curve[said["best_step"]])
    assert said["gain"] == pytest.approx(curve[0] - min(curve.values()))
    assert (said["outcome"], said["threshold"]) == ("unchanged", None)
    assert said == pack("studio/base").card["training"]["acceptance"]
    reason = "unchanged from the backbone: validation loss fell by "
    page = Path("adapters/studio/base/README.md").read_text()
    assert reason in out
    assert f"Kept: {reason}" in page
    assert "lowest validation loss" not in page
    assert all("| studio/base (unchanged) |" in text for text in (out, page))
    assert "what may help: more measurements; --caution 0 to take any" in out
    assert report["verdict"]["line"] in out
    assert f"{report['verdict']['line']}." in page
    assert report["verdict"]["unchanged"] == "the backbone"
    rows = {row["predictor"]: row["edt_s"] for row in report["rows"]}
    assert report["verdict"]["against"]["nearest"]["edt_s"]["ratio"] == pytest.approx(
        rows["studio/base"] / rows["nearest"]
    )
    main(["adapters", "list"])
    assert "| unchanged |" in capsys.readouterr().out
    weights = ["--adapter", "studio/base", "--k", "4", "--backbone", str(tiny_backbone_file)]
    main(["evaluate", str(room_folder), *weights, "--json", "evaluated.json"])
    assert report["verdict"]["line"] in capsys.readouterr().out
    assert json.loads(Path("evaluated.json").read_text())["verdict"] == report["verdict"]
    finetune(*options, "--lr", 0.01, "--caution", 0)
    out = capsys.readouterr().out
    assert "s of training: network weights of step " in out
    assert "(unchanged)" not in out
    assert "what may help" not in out
    finetune(*options, "--name", "studio/moved", "--start", "studio/base", "--caution", 100, "--levels", "none")
    out = capsys.readouterr().out
    assert "unchanged from studio/base: " in out
    assert "the adapter is unchanged from studio/base; " in out


def test_a_report_of_another_kind_is_not_replaced(options, room_folder, tiny_backbone_file, tmp_path, capsys):
    finetune(*options, "--json", "report.json")
    assert "wrote a report of finetune: report.json" in capsys.readouterr().out
    kept = Path("report.json").read_text()
    assert json.loads(kept)["kind"] == "finetune"
    with pytest.raises(SystemExit):
        main(["evaluate", str(room_folder), "--backbone", str(tiny_backbone_file), "--json", "report.json"])
    assert capsys.readouterr().err == (
        "error: report.json is a report of finetune, and a report of evaluate may not replace it; give another name or "
        "remove it\n"
    )
    assert Path("report.json").read_text() == kept
    finetune(*options, "--seed", 1, "--json", "report.json")
    assert "replaced the report of finetune: report.json" in capsys.readouterr().out


def test_borrowed_measurements(options, room_folder, tiny_backbone_file, capsys):
    """A panel that damps by 60 dB a second; what is stored serves with the references that it was evaluated with."""
    finetune(*options)
    panel = room_folder.with_name("panel")
    shutil.copytree(room_folder, panel)
    rirs = np.load(panel / "RIRs.npy")
    np.save(panel / "RIRs.npy", rirs * 10 ** (-3 * np.arange(rirs.shape[1]) / 48_000).astype(np.float32))
    few = ["--room", panel, *options[2:], "--shots", 3, "--borrow", "studio/base"]
    finetune(*few)
    assert "9 more measurements are studio/base's, converted to studio/panel" in capsys.readouterr().out
    stored = pack("studio/panel")
    assert (stored.card["room"]["shots"], stored.card["room"]["borrowed"], len(stored.rirs)) == (3, 9, 12)
    assert "9 more converted from studio/base" in stored.card["room"]["source"]
    room = load_room(panel)
    test = room.splits["test"]
    predicted = RoomPredictor.load("studio/panel", backbone=load_backbone(tiny_backbone_file)).predict(
        room.positions[test], k=4
    )
    found = errors(Metrics.of(predicted, iso=False), Metrics.of(room.with_shots(3).rirs[test], iso=False))
    row = next(row for row in stored.card["evaluation"]["rows"] if row["predictor"] == "studio/panel")
    assert np.nanmean(found["c50_db"]) == pytest.approx(row["c50_db"], rel=1e-3)
    main(["evaluate", str(panel), "--adapter", "studio/panel", "--k", "3", "--backbone", str(tiny_backbone_file)])
    assert "note: studio/panel has 9 borrowed measurements too" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        finetune(*options, "--borrow", "studio/base")
    assert "studio/base cannot lend to studio/base" in capsys.readouterr().err


def test_a_second_adapter_on_top_of_the_first(options, room_folder, tiny_backbone_file, capsys):
    backbone = load_backbone(tiny_backbone_file)
    finetune(*options)
    finetune(*options, "--name", "studio/panel", "--on-top-of", "studio/base", "--rank", 1)
    upper = pack("studio/panel")
    assert upper.parent[0] == "studio/base"
    assert sum(t.numel() for t in upper.tensors.values()) < sum(t.numel() for t in pack("studio/base").tensors.values())
    finetune(*options, "--name", "studio/panel2", "--on-top-of", "studio/panel", "--method", "bias")
    capsys.readouterr()
    main(["adapters", "verify", "--backbone", str(tiny_backbone_file)])
    assert capsys.readouterr().out.count(": ok") == 3
    # what is served is what was evaluated
    main(
        ["evaluate", str(room_folder), "--adapter", "studio/panel2", "--k", "4", "--backbone", str(tiny_backbone_file)]
    )
    shown = next(line for line in capsys.readouterr().out.splitlines() if "studio/panel2 |" in line)
    report = pack("studio/panel2").card["evaluation"]
    kept = next(row for row in report["rows"] if row["predictor"] == "studio/panel2")
    assert f"| {1000 * kept['edt_s']:.1f} |" in " ".join(shown.split())
    room = load_room(room_folder)
    predictor = RoomPredictor.load("studio/panel2", backbone=backbone)
    rirs = predictor.predict(room.positions[room.splits["test"]])
    assert np.isfinite(rirs).all()
    finetune(*options, "--seed", 1)
    with pytest.raises(SystemExit):
        main(["evaluate", str(room_folder), "--adapter", "studio/panel2", "--backbone", str(tiny_backbone_file)])
    assert "lies on top of studio/base, which has been trained anew since" in capsys.readouterr().err


def test_two_stages(options, room_folder, capsys):
    finetune(*options, "--first-stage", room_folder)
    assert pack("studio/base").card["training"]["started_from"] == "first stage: studio/base"
    assert Path("runs/studio/base/first-stage/log.jsonl").exists()
    assert pack("studio/base").card["training"]["first_stage"]["outcome"] == "trained"
    assert "the first stage" not in capsys.readouterr().out


def test_a_first_stage_that_is_undone_is_said(options, room_folder, capsys):
    finetune(*options, "--first-stage", room_folder, "--caution", 9)
    assert pack("studio/base").card["training"]["first_stage"]["outcome"] == "unchanged"
    told = "note: the first stage (studio/base) is undone and training begins anew: validation loss fell by "
    assert told in capsys.readouterr().out


def test_blend_and_identify(options, room_folder, tiny_backbone_file, capsys):
    weights = ["--backbone", str(tiny_backbone_file)]
    for seed in (0, 1):
        finetune(*options, "--name", f"studio/base@s{seed}", "--seed", seed, "--lr", 0.05)
    main(["adapters", "blend", str(room_folder), "--of", "studio/base@s0", "studio/base@s1", *weights, "--k", "4"])
    out = capsys.readouterr().out
    assert "\nnetwork 0.5 studio/base@s0 + 0.5 studio/base@s1\nlevels fitted to 12 measurements: " in out
    assert "\nstored studio/base@blend in " in out
    main(["adapters", "match", str(room_folder), *weights, "--k", "4", "--json", "fits.json"])
    match = json.loads(Path("fits.json").read_text())
    fits = match["fits"]
    assert {fit["adapter"] for fit in fits} == {"(none)", "studio/base@s0", "studio/base@s1", "studio/base@blend"}
    assert [fit["error_db"] for fit in fits] == sorted(fit["error_db"] for fit in fits)
    assert all(fit["trained_here"] == (fit["adapter"] != "(none)") for fit in fits)
    assert match["measurements"] == 12
    assert match["line"] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["adapters", "match", str(room_folder), "--store", "elsewhere", *weights])
    assert "store elsewhere is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["adapters", "blend", str(room_folder), "--of", "studio/base@s0", "--shares", "0.5", "0.5", *weights])
    assert "1 adapters have 2 shares" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rank", 0], "--rank is 0 but must be at least 1"),
        (["--rank", 10**9], "--rank is 1000000000 but must be at least 1 and at most 4096"),
        (["--name", "../x/y"], "'../x/y' must be room/configuration"),
        (["--k", 12], "12 training measurements are fewer than K + 1 = 13"),
        (["--shots", 13], "--shots is 13 but studio/base has 12"),
        (["--shots", 1], "training needs at least 2, but `haa-peft adapters blend` stores"),
        (["--store", "file"], "file is no folder"),
        (["--run-dir", "file"], "file is no folder"),
        (["--json", "file/report.json"], "file is no folder"),
        (["--seed", 2**32], "--seed is 4294967296"),
        (["--weight-decay", "nan"], "--weight-decay is nan"),
        (["--resume"], "no checkpoint to resume from"),
        (["--ranks", "misspelt=3"], "--ranks misspelt=... fits no layer"),
        (["--augment", "twist"], "--augment twist: give each of rotation, mirror"),
        (["--freeze", "middle"], "--freeze is 'middle' but must be early:N"),
        (["--freeze", "early:99"], "would freeze all"),
        (["--dropout", "1"], "--dropout is 1.0 but must be at least 0 and below 1"),
        (["--min-delta", "2"], "--min-delta is 2.0 but must be at least 0 and below 1"),
        (["--start", "studio/none"], "store adapters is no folder"),
        (["--on-top-of", "studio/none"], "store adapters is no folder"),
        (["--first-stage", "nowhere"], "nowhere: no such room folder"),
        (["--start", "studio/base", "--first-stage", "nowhere"], "give one of them"),
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
