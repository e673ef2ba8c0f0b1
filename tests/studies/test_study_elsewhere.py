"""Studies in rooms that their author never saw: what is drawn, run, left out, counted and named there."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.rooms.splits import NAMES
from haa_peft.studies.plan import Job, draws_of, jobs_of, redraw
from haa_peft.studies.read import load_study
from haa_peft.studies.results import for_every_seed, read_results
from haa_peft.studies.statistics import compare_runs, difference
from tests.studies.conftest import kept_tests

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_full_vs_adapter.py"
RUNS = """
  lora: {rank: 2}
  zero: {adapt: false, geometry: none}
  warm: {rank: 2, start: {run: lora, configuration: base}, only: [studio/panel]}
  warmer: {rank: 2, start: {run: warm}}
  lent: {rank: 2, borrow: {studio: base}}
  staged: {rank: 2, first_stage: [studio/base]}
"""


def described(folder, **changes):
    """A room folder with other entries in its room.json."""
    path = folder / "room.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def own(rooms, tmp_path):
    """Two configurations of another room: one that may draw, one with splits of its own."""
    folders = []
    for name in ("empty", "full"):
        folders.append(tmp_path / "cellar" / name)
        shutil.copytree(rooms[0], folders[-1])
    splits = {"train": list(range(13)), "valid": [13, 14, 15], "test": [16, 17, 18, 19]}
    described(folders[1], splits=splits)
    return folders


def test_the_plan_of_a_study_elsewhere(study_file, own):
    path = study_file(
        RUNS + "  wrong: {geometry: {of: {studio: elsewhere}}}\n",
        seeds="[0, 3, 5]",
        draws="[studio]",
        compare_with="warm",
        pairs="[[warm, lora], [zero, lora]]",
    )
    study = load_study(path, [str(folder) for folder in own])
    assert list(study.rooms) == ["cellar/empty", "cellar/full"]
    assert (study.title, study.name) == (
        "Runs of made-up.yaml in cellar/empty, cellar/full",
        "cellar-empty-cellar-full-made-up",
    )
    assert study.notes == (
        "cellar/full keeps its training positions for all seeds: it has splits of its own",
        "left out, since they name rooms or configurations beside cellar/empty, cellar/full: "
        "warm, warmer, lent, staged, wrong",
    )
    assert (study.compare_with, study.pairs) == ("lora", (("zero", "lora"),))
    for run, drawing in (("", 3), ("zero", 3), ("lora", 3)):
        count = [sum((job.run, job.room) == (run, room) for job in jobs_of(study)) for room in study.rooms]
        assert count == [drawing, 3 if run == "lora" else 1]
    trained = [tuple(study.room("cellar/empty", seed, 12).splits["train"]) for seed in study.seeds]
    assert len(set(trained)) == 3
    assert len({tuple(study.room("cellar/full", seed, 12).splits["train"]) for seed in study.seeds}) == 1


def test_a_run_is_limited_to_the_configurations_where_it_can_be(study_file, rooms):
    study = load_study(study_file(RUNS), [str(room) for room in rooms])
    assert study.runs["warm"].only == study.runs["warmer"].only == study.runs["lent"].only == ("studio/panel",)
    assert study.runs["staged"].only == study.runs["lora"].only == ()


def test_a_first_stage_in_the_rooms_that_are_there(study_file, rooms):
    path = study_file("\n  staged: {rank: 2, first_stage: [studio/base, studio/panel]}")
    study = load_study(path, [str(rooms[0])], "mine/xrir.pth")
    assert study.runs["staged"].first_stage == ("studio/base",)
    assert study.notes == ("staged's first stage is without studio/panel",)
    assert (study.name, study.backbone) == ("studio-base-made-up-xrir", "mine/xrir.pth")


def test_a_study_with_more_training_positions(study_file, rooms):
    study = load_study(study_file("\n  lora: {rank: 2}", training_positions="14", shots="[14, 3]"))
    many, few = (study.room("studio/base", 0, shots).splits for shots in (14, 3))
    assert [len(many[name]) for name in NAMES] == [14, 3, 3]
    assert set(few["train"]) < set(many["train"])
    assert many["test"].tolist() == few["test"].tolist()


def test_no_run_is_left(study_file, own):
    with pytest.raises(InputError, match="none of its runs can be in cellar/empty; they all name other rooms"):
        load_study(study_file("\n  lora: {only: [studio/base]}"), [str(own[0])])


def test_too_few_positions_to_draw(study_file, own):
    for name in ("RIRs.npy", "xyzs.npy"):
        np.save(own[0] / name, np.load(own[0] / name)[:14])  # 12 train, one validates, one tests
    study = load_study(study_file("\n  lora: {}", draws="true", seeds=str(list(range(29)))), [str(own[0])])
    assert len(set(study.drawn["cellar/empty"].values())) <= 13  # ways to leave one of thirteen out
    splits = {"train": list(range(11)), "valid": [11], "test": [12]}
    described(own[0], splits=splits)
    study = load_study(study_file("\n  lora: {}", draws="true", shots="[11]"), [str(own[0])])
    assert not study.drawn


def test_draws_that_name_a_room_with_splits_of_its_own(study_file, rooms):
    splits = {"train": list(range(13)), "valid": [13, 14, 15], "test": [16, 17, 18, 19]}
    described(rooms[1], splits=splits)
    with pytest.raises(InputError, match="draws names studio, but studio/panel cannot draw: it has splits of its own"):
        load_study(study_file("\n  lora: {}", draws="[studio]"))


def test_seeds_that_draw_the_same_share_what_is_not_trained(study_file, own):
    """Of 14 positions one of thirteen is left out, so of 29 seeds many draw the same."""
    for name in ("RIRs.npy", "xyzs.npy"):
        np.save(own[0] / name, np.load(own[0] / name)[:14])
    study = load_study(study_file("\n  lora: {rank: 2}", draws="true", seeds=str(list(range(29)))), [str(own[0])])
    room = load_study(study_file("\n  lora: {rank: 2}"), [str(own[0])]).room("cellar/empty", 0, 12)
    distinct = {frozenset(redraw(room.splits, seed)["train"].tolist()) for seed in range(29)}
    jobs = jobs_of(study)
    assert sum(job.run == "" for job in jobs) == len(distinct) < 29
    assert sum(job.run == "lora" for job in jobs) == 29
    first = draws_of(room, range(29))
    assert {job.seed for job in jobs if job.run == ""} == set(first.values())
    assert Job("", "cellar/empty", 12, 0) in jobs


@pytest.mark.parametrize("draws", [True, False])
def test_a_study_elsewhere_from_command_to_page(draws, study_file, own, tmp_path, monkeypatch, capsys):
    path = study_file("\n  lora: {rank: 2}\n  zero: {adapt: false, geometry: none}", seeds="[0, 3]",
                      compare_with="zero", draws=str(draws).lower())  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--study", str(path), "--rooms", *map(str, own), "--workers", "1"])
    runpy.run_path(str(RECIPE), run_name="__main__")
    out = tmp_path / "results" / "cellar-empty-cellar-full-made-up"
    kept = kept_tests(out)
    once = {f"{run}-shots12-seed0.json" for run in ("nearest", "linear", "energy", "backbone", "zero")}
    twice = once | {name.replace("seed0", "seed3") for name in once}
    lora = {"lora-shots12-seed0.json", "lora-shots12-seed3.json"}
    for room, names in (("empty", twice if draws else once), ("full", once)):
        assert {name.split("/")[1] for name in kept if room in name.split("/")[0]} == names | lora
    page = (out / "README.md").read_text()
    assert page.startswith("# Runs of made-up.yaml in cellar/empty, cellar/full\n")
    one = "1 draw of training positions, 2 seeds; intervals do not include the choice of training positions"
    if draws:
        assert "- cellar/empty: 2 draws of training positions, 2 seeds\n" in page
        assert f"- cellar/full: {one}\n" in page
        assert "cellar/full keeps its training positions for all seeds" in capsys.readouterr().out
    else:
        assert f"- cellar/empty, cellar/full: {one}\n" in page
    assert f"; {len(kept)} runs" in page


def splits_of(draw):
    return {"train": list(range(20, 32)), "valid": [32 + draw], "test": list(range(8))}


def test_what_is_run_once_counts_as_if_run_with_every_seed(write_run, tmp_path):
    """Two seeds share a draw and one has another; the backbone once for each draw, or for each seed: the same."""
    rng = np.random.default_rng(0)
    backbone = {draw: rng.uniform(0.01, 0.02, 8) for draw in (0, 1)}
    for seed, draw in ((0, 0), (1, 0), (2, 1)):
        write_run("lora", rng.uniform(0.01, 0.02, 8), seed=seed, splits=splits_of(draw))
    for seed, draw in ((0, 0), (2, 1)):
        folder = write_run("backbone", backbone[draw], seed=seed, splits=splits_of(draw))
        write_run("off", backbone[draw], seed=seed, splits=splits_of(draw), group="baseline", trained_on=None,
                  settings={"position_error": 0.1})  # fmt: skip
    once = for_every_seed(read_results(folder))
    assert sorted(r.seed for r in once if r.run == "backbone") == [0, 1, 2]
    assert sorted(r.seed for r in once if r.run == "off") == [0, 2]  # displaced otherwise with each seed
    write_run("backbone", backbone[0], seed=1, splits=splits_of(0))
    every = read_results(folder)
    assert len(for_every_seed(every)) == len(every)
    assert compare_runs(once, "lora", "backbone", "edt_s") == compare_runs(every, "lora", "backbone", "edt_s")


def test_seeds_that_share_a_draw_are_no_draws():
    """Five equal copies of each of four draws tell what the four do; as draws they would seem to tell twice as sure."""
    rng = np.random.default_rng(4)
    errors, zero = rng.normal(0, 1, (4, 1)) + rng.normal(0, 0.1, (4, 50)), np.zeros((20, 50))
    copied = np.repeat(errors, 5, axis=0)
    four = difference([errors], [zero[:4]])
    shared = difference([copied], [zero], draws=np.repeat(range(4), 5).tolist())
    assert (shared.difference, shared.low, shared.high) == pytest.approx((four.difference, four.low, four.high))
    strangers = difference([copied], [zero])
    assert strangers.high - strangers.low < 0.6 * (four.high - four.low)


def test_the_variance_of_seeds_within_draws():
    """Of nested means: draws' over their number, and seeds' within them over theirs (a two-stage bootstrap)."""
    rng = np.random.default_rng(5)
    draws, seeds = rng.normal(0, 1, (6, 1)), rng.normal(0, 2, (6, 30))
    errors = (draws + seeds).reshape(-1, 1) + np.zeros((180, 8))
    found = difference([errors], [np.zeros_like(errors)], draws=np.repeat(range(6), 30).tolist(), resamples=20_000)
    means = (draws + seeds).mean(axis=1)
    expected = np.sqrt(means.var() / 6 + (draws + seeds).var(axis=1).mean() / 180)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.05)


def test_without_a_run_called_full_the_first_is_compared_with(study_file, tmp_path):
    path = study_file("\n  r1: {rank: 1}\n  lora: {}")
    path.write_text("".join(line for line in path.open() if not line.startswith("compare_with")))
    assert load_study(path).compare_with == "r1"
