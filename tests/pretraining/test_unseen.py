import json

import numpy as np
import pytest
import torch

from haa_peft import load_backbone
from haa_peft.acoustics.paper import paper_metrics
from haa_peft.cli import main
from haa_peft.evaluation.baselines import linear_interpolation
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import nearest_references, predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.pretraining.unseen import draw_unseen, evaluate_unseen, predict_unseen
from haa_peft.simulation.corpus import Corpus
from tests.conftest import TINY


def untrained():
    torch.manual_seed(0)
    return XRIR(TINY).eval().requires_grad_(False)


def test_predictions_are_those_of_a_measured_room(simulated_corpus):
    room, backbone = Corpus(simulated_corpus)[1], untrained()
    panorama, places = room.panorama(), room.positions - room.receiver
    targets, rest = np.array([3, 5]), np.setdiff1d(np.arange(16), [3, 5])
    chosen = np.stack([np.random.default_rng(0).permutation(rest)[:8]] * 2)
    found = predict_unseen(backbone, room, torch.from_numpy(panorama), targets, chosen, (8, 2), "references", 0)
    for k in (8, 2):
        used = chosen[0, :k]
        rirs, asked = room.rirs[used].astype(np.float32), places[targets].astype(np.float64)
        references = RoomTensors.of_arrays(panorama, rirs, places[used])
        order = nearest_references(asked, places[used], k)
        expected = {
            "nearest": linear_interpolation(rirs, places[used], order[:, :1], asked),
            "linear": linear_interpolation(rirs, places[used], order, asked),
            "energy": predict_rirs(backbone, references, asked, k, 0),  # the backbone has not learned anything
            "backbone": predict_rirs(backbone, references, asked, k, 0),
        }
        for name, rirs in expected.items():
            np.testing.assert_allclose(found[k, name], rirs, atol=1e-4 * np.abs(rirs).max(), err_msg=name)


def test_errors_are_means_over_seeded_positions(simulated_corpus):
    corpus = Corpus(simulated_corpus)
    rooms = [(index, corpus[index]) for index in range(3)]
    rows = evaluate_unseen(untrained(), rooms, lambda _, room: torch.from_numpy(room.panorama()), ks=(1, 4), seed=2)
    assert [(row["k"], row["predictor"]) for row in rows] == [
        (k, name) for k in (1, 4) for name in ("nearest", "linear", "energy", "backbone")
    ]
    differences = []
    for index, room in rooms:
        targets, chosen = draw_unseen((2, index), 16, 4)
        places = room.positions - room.receiver
        for target, others in zip(targets, chosen, strict=True):
            nearest = others[np.linalg.norm(places[others] - places[target], axis=1).argmin()]
            pair = np.stack(
                [linear_interpolation(room.rirs, places, np.array([[nearest]]), places[[target]])[0], room.rirs[target]]
            )
            differences.append(abs(np.diff(paper_metrics(pair, 22_050)["c50_db"])[0]))
    row = rows[4]
    assert row["c50_db"] == pytest.approx(np.mean(differences), rel=1e-5)
    assert row["of_nearest"]["c50_db"] == 1
    assert rows[6]["of_nearest"]["edt_s"] == pytest.approx(rows[6]["edt_s"] / row["edt_s"])
    assert rows[0]["c50_db"] == rows[1]["c50_db"]  # one reference: linear interpolation is nearest neighbour


def test_command(simulated_corpus, acoustic_rooms, tiny_backbone_file, tmp_path, capsys):
    arguments = ["pretrain", "evaluate", str(simulated_corpus), "--backbone", str(tiny_backbone_file)]
    main([*arguments, "--count", "2", "--k", "2", "--json", str(tmp_path / "report.json")])
    assert "simulated: mean absolute errors at 8 positions of 2 rooms" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())["corpora"][0]
    assert (report["seed"], report["odd"], report["rooms"], len(report["rows"])) == (5, False, 2, 4)
    main([*arguments, "--count", "1", "--k", "2", "--phase", "random"])
    assert "phase of random" in capsys.readouterr().out
    main(["pretrain", "evaluate", str(acoustic_rooms), "--backbone", str(tiny_backbone_file), "--k", "2"])
    assert "AcousticRooms: mean absolute errors at 6 positions of 2 receivers" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["pretrain", "evaluate", str(acoustic_rooms), "--backbone", str(tiny_backbone_file), "--k", "3"])
    assert "--k is 3 but a room has only 3 positions; give at most 2" in capsys.readouterr().err


def test_one_k_does_not_depend_on_the_others():
    few, many = draw_unseen((0, 3), 16, 4), draw_unseen((0, 3), 16, 8)
    np.testing.assert_array_equal(few[0], many[0])
    np.testing.assert_array_equal(few[1], many[1][:, :4])
    assert all(target not in row for target, row in zip(*many, strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", "16"], "--k is 16 but must be from 1 to 15"),
        (["--seed", "-1"], "--seed is -1 but must be from 0 to 4294967295"),
        (["--count", "0"], "--count is 0 but must be at least 1"),
    ],
)
def test_bad_options(more, message, simulated_corpus, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "evaluate", str(simulated_corpus), *more])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("made", [{"corpus": {"seed": 5}}, {"corpus": {"seed": 0}, "start": {"corpus": {"seed": 5}}}])
def test_rooms_that_were_trained_on_are_refused(made, simulated_corpus, tiny_backbone_file, capsys):
    weights = fingerprint(load_backbone(tiny_backbone_file))
    story = {**made, "fingerprint": weights}
    tiny_backbone_file.with_suffix(".json").write_text(json.dumps(story))
    with pytest.raises(SystemExit):
        main(["pretrain", "evaluate", str(simulated_corpus), "--backbone", str(tiny_backbone_file)])
    assert "holds rooms of seed 5, which the backbone was pretrained on" in capsys.readouterr().err
