"""Studies as their files say them: what they may mean, and what they may not."""

from pathlib import Path

import numpy as np
import pytest

from haa_peft import load_room
from haa_peft.errors import InputError
from haa_peft.studies.plan import jobs_of, waves
from haa_peft.studies.read import load_study


@pytest.mark.parametrize(
    ("runs", "more", "message"),
    [
        ("\n  lora: {rank: 0}", {}, "run 'lora': rank is 0"),
        ("\n  lora: {rnak: 2}", {}, "run 'lora': unknown entry 'rnak'"),
        ("\n  nearest: {}", {}, "run 'nearest': must be letters"),
        ("\n  lora: {lr: fast}", {}, "run 'lora': .*fast"),
        ("\n  warm: {start: {run: lora}}", {}, "needs lora in studio/base.*, which the study does not have"),
        ("\n  a: {use: {run: b}}\n  b: {use: {run: a}}", {}, "which the study does not have"),
        ("\n  lora: {only: [studio/moved]}", {}, "a run names studio/moved, which is none of"),
        ("\n  lora: {shots: [5]}", {}, "a run has shots 5"),
        ("\n  lora: {augment: mirror}", {}, r"run 'lora': augment is 'mirror' but must be a list, such as \[mirror\]"),
        ("\n  lora: {augment: [twist]}", {}, "run 'lora': --augment twist: give each of"),
        ("\n  lora: {shots: 3}", {}, r"run 'lora': shots is 3 but must be a list, such as \[3\]"),
        ("\n  lora: {only: panel}", {}, "run 'lora': only is 'panel' but must be a list"),
        ("\n  lora: {only: [panel]}", {}, "a run names panel, which is none of"),
        ("\n  lora: {borrow: moved}", {}, "a run names studio/moved, which is none of"),
        ("\n  lora: {borrow: [base]}", {}, "borrow is .* but must be a name, or a mapping of rooms to names"),
        ("\n  lora: full", {}, "run 'lora' is 'full' but must be a mapping of options"),
        ("\n  lora: {}", {"sides": "3"}, "unknown entry 'sides'"),
        ("\n  lora: {}", {"split": "train"}, "split is 'train'"),
        ("\n  lora: {}", {"seeds": "[-1]"}, "seeds holds -1 but must be at least 0"),
        ("\n  lora: {}", {"seeds": "3"}, "seeds is 3 but must be a list"),
        ("\n  lora: {}", {"shots": "[a]"}, "shots holds 'a'"),
        ("\n  lora: {}", {"shots": "[]"}, "shots is empty"),
        ("\n  lora: {}", {"shots": "[13]"}, "shots are 13 but studio/base has 12"),
        ("\n  lora: {}", {"k": "0"}, "k is 0 but must be"),
        ("\n  lora: {}", {"compare_with": "full"}, "compare_with names 'full' but runs are"),
        ("\n  lora: {}", {"show": "[full]"}, "show names 'full' but runs are"),
        ("\n  lora: {}", {"draws": "3"}, "draws is 3 but must be true, false or a list"),
        ("\n  lora: {}", {"draws": "[elsewhere]"}, "draws is .* but must be true, false or a list"),
        ("\n  lora: {channels: colours}", {}, "run 'lora': --channels is 'colours' but must be none, normals"),
        ("\n  lora: {method: statistics, channels: normals}", {}, "run 'lora': --channels does not go with statistics"),
        ("\n  lora: {channels: materials}", {}, "channels materials need a geometry with materials, and it has none"),
        ("\n  lora: {blend: [base]}", {}, "run 'lora': "),
        ("\n  lora: {blend: {base: 1}}", {}, "blend needs use"),
        (
            "\n  lora: {first_stage: [studio/base], start: {run: lora, configuration: base}}",
            {},
            "run 'lora': first_stage and start are two beginnings; give one of them",
        ),
        ("\n  lora: {}", {"rooms": "[nowhere]"}, "nowhere: no such room folder"),
        ("\n  lora: {]", {}, "cannot be read as YAML"),
    ],
)
def test_bad_studies(runs, more, message, study_file):
    with pytest.raises(InputError, match=message):
        load_study(study_file(runs, **more))


@pytest.mark.slow
def test_studies_that_are_shipped(shared_data, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("HAA_PEFT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "haa_peft.simulation.simulated.simulate", lambda room, seed: np.ones((len(room.positions), 9600))
    )
    for path in sorted(Path("recipes/studies").glob("*.yaml")):
        # whose recordings are not here
        rooms = sorted(map(str, (shared_data / "haa-reconstruction").iterdir())) if path.stem == "haa" else []
        study = load_study(path, rooms)
        assert study.question
        assert len(waves(study)) >= 1
        for name, folder in study.rooms.items():
            assert load_room(folder).name == name


def test_a_run_with_seeds_of_its_own(study_file):
    study = load_study(study_file("\n  lora: {rank: 2, seeds: [1]}\n  full: {method: full}", seeds="[0, 1]"))
    assert {job.seed for job in jobs_of(study) if job.run == "lora"} == {1}
    assert {job.seed for job in jobs_of(study) if job.run in ("full", "")} == {0, 1}
    with pytest.raises(InputError, match=r"a run has seeds 2, which are none of the study's \[0, 1\]"):
        load_study(study_file("\n  lora: {rank: 2, seeds: [2]}", seeds="[0, 1]"))


def test_settings_by_their_old_names(study_file):
    study = load_study(study_file("\n  averaging: {averaging: 0.5, least_gain: 1e-2}"))
    training = study.runs["averaging"].training
    assert (training["ema_decay"], training["min_delta"]) == (0.5, 0.01)
