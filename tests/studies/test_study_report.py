import json
import shutil
import sys
import tarfile

import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.studies import figures
from haa_peft.studies.report import write_report
from haa_peft.studies.results import mean_error, over_shots, read_results, run_names, unpack, usual_shots

ERRORS = {"nearest": 0.05, "backbone": 0.02, "bias": 0.019, "lora": 0.018, "full": 0.015}


@pytest.fixture
def study(write_run):
    """Five runs of two seeds in three configurations, one a reconstruction; other shots in one, a transfer."""
    rng = np.random.default_rng(5)
    for name in ("r3vival/000", "r3vival/RB", "hallway/panel1"):
        for seed in (0, 1):
            spread = rng.uniform(0.9, 1.1, 10)
            for run, error in ERRORS.items():
                # in the hallway nearest neighbour is best
                factor = 0.1 if (name, run) == ("hallway/panel1", "nearest") else 1
                write_run(run, factor * error * spread, name=name, seed=seed)
                if name == "r3vival/000":
                    write_run(run, 2 * error * spread, name=name, seed=seed, shots=6)
            if name == "r3vival/RB":
                folder = write_run("lora", 0.03 * spread, name=name, seed=seed, trained_on="r3vival/000")
    return folder


@pytest.fixture
def _no_figures(monkeypatch):
    """Most of the time of a report, where only its text is looked at."""
    for name in ("plot_size", "plot_shots", "plot_maps", "plot_decay_curves", "plot_transfer"):
        monkeypatch.setattr(figures, name, lambda *_: None)


def written(folder, **settings):
    """Page and details of a report, as one text."""
    page = write_report(folder, **settings)
    return page.read_text() + "\n" + (folder / "details.md").read_text()


def rows(page, heading):
    """The first table below a heading, per row its cells."""
    below = page.split(heading, 1)[1].splitlines()
    start = next(i for i, line in enumerate(below) if line.startswith("|"))
    lines = []
    for line in below[start:]:
        if not line.startswith("|"):
            break
        lines.append([cell.strip() for cell in line.strip("|").split("|")])
    return {line[0]: line[1:] for line in lines}


@pytest.mark.usefixtures("_no_figures")
def test_means_are_over_seeds_that_all_runs_have(study, write_run):
    before = written(study, compare_with="full", title="Methods", question="")
    for name in ("r3vival/000", "r3vival/RB"):
        for run in ("lora", "full"):
            write_run(run, np.full(10, 0.5), name=name, seed=2)
    page = written(study, compare_with="full", title="Methods", question="")
    heading = "### Mean errors in measured rooms"
    assert "of seeds 0, 1, with 12 measurements" in page
    assert rows(page, heading) == rows(before, heading)
    against = "### Differences in measured rooms"
    assert rows(page, against)["lora"] != rows(before, against)["lora"]  # both have the third


def test_the_page(study):
    page = written(study, compare_with="full", title="Methods", question="Which is best?")
    assert page.startswith("# Methods\n\nWhich is best?\n")
    assert "*reconstructions*, not measured" in page
    own = [r for r in read_results(study) if r.room == "r3vival" and r.run == "lora" and r.shots == 12]
    own = [r for r in own if not r.is_transfer]
    expected = np.mean(
        [np.concatenate([r.errors["edt_s"] for r in own if r.name == n]).mean() for n in {r.name for r in own}]
    )
    # the errors of all metrics are in proportion; in the hallway nearest neighbour's are a tenth
    summary = rows(page, "## In one figure")
    assert list(summary)[2:] == ["full", "lora", "bias", "backbone", "nearest"]
    assert summary["lora"] == ["90.0"]
    assert summary["nearest"] == [f"{100 * 2.5 * 0.1 ** (1 / 3):.1f}"]
    table = rows(page, "### Mean errors in measured rooms")
    assert list(table)[2:] == list(ERRORS)
    assert table["lora"] == [
        f"{1000 * expected:.1f}", f"{20 * expected:.2f}", f"{100 * expected:.1f}", f"{50 * expected:.2f}",
        "30004", "120016", "6.0", "4 of 4",
    ]  # fmt: skip
    against = rows(page, "Against `full`:")
    assert against["lora"][0].startswith("+20 % [+20, +20] +0.15 JND worse")
    assert "| r3vival/000 EDT |" in page
    assert "Full fine-tuning (`full`) is better than every adapter in 6 of 6 cases" in page
    assert "Nearest neighbour (`nearest`) is better than every trained run in 3 of 3 cases" in page
    assert "hallway/panel1 (EDT, C50, T60)" in page
    transfer = rows(page, "### Weights of another configuration, measured")
    assert transfer["lora"][-1].startswith("+67 % [+67, +67]")
    measurements = page.split("### Number of measurements, measured")[1]
    assert "Means over r3vival/000." in measurements


@pytest.mark.slow
def test_every_figure_is_there_and_no_other(study):
    page = written(study, compare_with="full", title="Methods", question="?")
    embedded = {line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    found = {path.name for path in study.glob("*.png")}
    kinds = {"size-measured", "size-reconstructed", "shots-measured", "transfer-measured"}
    rooms = {
        f"{figure}-{room}" for figure in ("map", "decay") for room in ("r3vival-measured", "hallway-reconstructed")
    }
    assert found == embedded == {f"{name}.png" for name in kinds | rooms}
    for path in study.glob("*.png"):
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size > 5000


@pytest.mark.usefixtures("_no_figures")
def test_rooms_of_several_kinds_together(write_run):
    """What a row costs is read off over each kind, over what is not simulated, and over all; pairs too."""
    cost = {"r3vival/000": 1.02, "hallway/panel1": 1.04, "simulated/1000-0": 1.12}
    for name, factor in cost.items():
        for seed in (0, 1):
            for run, error in (("true", 1), ("none", factor), ("none-zero", 2), ("backbone", 1.5)):
                changes = {"group": "baseline", "trained_on": None, "seconds": None} if run == "none-zero" else {}
                folder = write_run(run, [0.02 * error] * 10, name=name, seed=seed, **changes)
    page = written(folder, title="t", question="q", compare_with="true", pairs=[("none", "none-zero")])
    expected = {"Measured": 2, "Reconstructed": 4, "Simulated": 12, "Measured and reconstructed": 3, "All": 6}
    for title, percent in expected.items():
        below = page.rsplit(f"## {title} rooms\n", 1)[1].split("Against `true`", 1)[1]
        found = rows(below, ":")["none"]
        shown = f"+{percent}" + ".0" * (percent < 10)
        assert found[0].startswith(f"{shown} % [{shown}, {shown}]")
        assert found[1].startswith(f"{shown} % [{shown}, {shown}]")
    table = page.split("## Pairs")[1].split("## Details")[0]
    pairs = [line for line in table.splitlines() if line.startswith("| none ")]
    assert [line.split("|")[3].strip() for line in pairs] == [title.lower() for title in expected]
    assert [line.split("|")[4].split()[0] for line in pairs] == ["-49", "-48", "-44", "-48", "-47"]
    # a row that adapts nothing has no runs that validation undid
    assert rows(page, "### Mean errors in measured rooms")["none-zero"][-4:] == ["0", "0", "-", "-"]


def test_a_study_of_baselines_has_fewer_figures(write_run):
    write_run("backbone", [0.01] * 6)
    folder = write_run(
        "nearest", [np.nan] * 6, decay_curves={"position": [], "time_s": [], "true_db": [], "predicted_db": []}
    )
    page = written(folder, title="t", question="q", compare_with="backbone")
    assert {path.name for path in folder.glob("*.png")} == {"map-r3vival-measured.png", "decay-r3vival-measured.png"}
    assert rows(page, "### Mean errors")["nearest"][0] == "-"


def test_what_is_read(study):
    results = read_results(study)
    assert run_names(results) == list(ERRORS)
    assert usual_shots(results) == 12
    assert {r.name for r in over_shots(results)} == {"r3vival/000"}
    assert [r.kind for r in results if r.room == "hallway"] == ["reconstructed"] * 10
    assert np.isnan(mean_error(results, "linear", "edt_s"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda entry: entry["errors"]["edt_s"].pop(), "reshape"),
        (lambda entry: entry.pop("splits"), "it has no 'splits'"),
        (lambda entry: entry["errors"].pop("c50_db"), "it has no 'c50_db'"),
        (lambda entry: entry.update(group="other"), "group is 'other'"),
        (lambda entry: entry.update(errors=None), "NoneType"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(write_run, damage, says):
    folder = write_run("lora", [0.01] * 6)
    path = next(folder.rglob("*.json"))
    entry = json.loads(path.read_text())
    damage(entry)
    path.write_text(json.dumps(entry))
    with pytest.raises(InputError) as error:
        read_results(folder)
    assert says in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def pack(folder):
    """The runs as the repository keeps them, and they alone."""
    with tarfile.open(folder / "runs.tar.xz", "w:xz") as file:
        file.add(folder / "runs", "runs")
    shutil.rmtree(folder / "runs")


def test_packed_runs_are_read_and_unpacked(study):
    """Against the same runs as files; ``pack`` writes what ``tar -cJf runs.tar.xz runs`` does."""
    files = {path.relative_to(study): path.read_bytes() for path in study.rglob("*.json")}
    names = [(r.run, r.name, r.seed, r.shots, r.errors["edt_s"].tolist()) for r in read_results(study)]
    pack(study)
    assert [(r.run, r.name, r.seed, r.shots, r.errors["edt_s"].tolist()) for r in read_results(study)] == names
    unpack(study)
    assert {path.relative_to(study): path.read_bytes() for path in study.rglob("*.json")} == files
    shutil.rmtree(study / "runs")
    content = (study / "runs.tar.xz").read_bytes()
    (study / "runs.tar.xz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"runs\.tar\.xz cannot be read .*; restore it, or remove it"):
        read_results(study)


def test_other_bad_input(write_run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="run the study first"):
        read_results(tmp_path)
    folder = write_run("lora", [0.01] * 6)
    with pytest.raises(InputError, match="full is no run of .* must be one of lora"):
        write_report(folder, compare_with="full", title="t", question="q")
    path = next(folder.rglob("*.json"))
    path.with_name("copy.json").write_text(path.read_text())
    with pytest.raises(InputError, match=r"hold the same run"):
        read_results(folder)
    path.with_name("copy.json").write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"copy\.json is no result of a run"):
        read_results(folder)


def test_without_matplotlib(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("haa_peft.studies.drawing.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"haa-peft\[plots\]"):
        write_report(study, compare_with="full", title="t", question="q")
