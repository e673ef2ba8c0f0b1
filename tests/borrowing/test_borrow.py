import dataclasses

import numpy as np
import pytest

from haa_peft import borrowing as module
from haa_peft import load_backbone, load_room
from haa_peft.acoustics.paper import paper_metrics
from haa_peft.acoustics.spectrogram import SAMPLE_RATE
from haa_peft.borrowing import borrow, borrow_if_better
from haa_peft.errors import InputError

DAMPING = 40.0
"""dB a second that the panel adds."""


@pytest.fixture
def base(room_folder):
    return load_room(room_folder)


@pytest.fixture
def panel(base):
    """The base with more damping after the direct sound and half the gain, of which three measurements train."""
    distance = np.linalg.norm(base.positions - base.receiver, axis=1)
    time = np.arange(base.rirs.shape[1]) / SAMPLE_RATE - distance[:, None] / 343
    rirs = 0.5 * base.rirs * 10 ** (-DAMPING / 20 * np.maximum(time, 0))
    room = dataclasses.replace(base, configuration="panel", rirs=rirs.astype(np.float32), scale=base.scale)
    return room.with_shots(3)


def knowing(room):
    """A predictor that knows a room's RIRs by their distance, in place of a network."""
    distances = np.linalg.norm(room.positions - room.receiver, axis=1)

    def predict(backbone, references, positions, k, seed):
        peak = np.abs(references.rirs.numpy()).max()  # the unit that is asked for
        rows = np.abs(np.linalg.norm(positions, axis=1)[:, None] - distances).argmin(axis=1)
        lent = np.abs(np.linalg.norm(references.positions.numpy(), axis=1)[:, None] - distances).argmin(axis=1)
        return room.rirs[rows] * peak / np.abs(room.rirs[lent]).max()

    return predict


def test_where_nobody_knows_the_walls_everything_is_inside(base, panel, room_folder, monkeypatch):
    monkeypatch.setattr(module, "predict_rirs", knowing(base))
    unknown = dataclasses.replace(panel, geometry=load_room(room_folder, "none").geometry)
    assert borrow(unknown, base, None).borrowed == borrow(panel, base, None).borrowed


def test_conversion_finds_what_changed(base, panel, monkeypatch):
    """A gain and an exponential damping, known in closed form, where predictions are exact."""
    monkeypatch.setattr(module, "predict_rirs", knowing(base))
    found = borrow(panel, base, None)
    assert found.borrowed == len(base.splits["train"]) - 3  # three positions are the room's own
    assert found.own.tolist() == panel.splits["train"].tolist()
    borrowed = found.splits["train"][3:]
    lent = [i for i in base.splits["train"] if i not in panel.splits["train"]]
    np.testing.assert_allclose(found.positions[borrowed], base.positions[lent])
    # what was measured there with the panel, of which the room's own splits know nothing
    distance = np.linalg.norm(base.positions - base.receiver, axis=1)
    for rir, i in zip(found.rirs[borrowed], lent, strict=True):
        time = np.arange(len(rir)) / SAMPLE_RATE - distance[i] / 343
        heard = (time > 0.002) & (time < 0.3) & (base.rirs[i] != 0)
        gain = 20 * np.log10(rir[heard] * panel.scale / (base.rirs[i][heard] * base.scale))
        assert np.abs(gain - (20 * np.log10(0.5) - DAMPING * time[heard])).max() < 0.5
    np.testing.assert_array_equal(found.rirs[: len(panel.rirs)], panel.rirs)
    assert found.fingerprint != panel.fingerprint
    assert found.without_borrowed() is panel


def test_positions_that_choose_or_test_are_not_borrowed(base, panel, monkeypatch):
    monkeypatch.setattr(module, "predict_rirs", knowing(base))
    test = np.append(panel.splits["test"], base.splits["train"][-1])
    train = np.setdiff1d(panel.splits["train"], test)
    found = borrow(panel.with_splits({**panel.splits, "train": train, "test": test}), base, None)
    here = found.positions[found.splits["train"][len(found.own) :]]
    used = found.positions[np.concatenate([found.own, found.splits["valid"], found.splits["test"]])]
    assert np.linalg.norm(here[:, None] - used, axis=-1).min() > 0.05


def test_a_receiver_that_moved(base, panel, monkeypatch):
    """Positions keep their place seen from the receiver, but not outside the room, nor where one tests in the room."""
    monkeypatch.setattr(module, "predict_rirs", knowing(base))
    shift = np.array([1.0, 0.0, 0.0])
    test = np.append(panel.splits["test"], base.splits["train"][-1])
    train = np.setdiff1d(panel.splits["train"], test)
    moved = dataclasses.replace(
        panel, receiver=panel.receiver + shift, splits={**panel.splits, "train": train, "test": test}
    )
    found = borrow(moved, base, None)
    here = found.positions[found.splits["train"][len(found.own) :]]
    expected = [p + shift for p in base.positions[base.splits["train"][:-1]] if p[0] + shift[0] < 6]
    np.testing.assert_allclose(here, expected)
    assert len(expected) < 11


@pytest.mark.slow
def test_what_is_left_out_converts_nothing(base, panel, tiny_backbone, tmp_path, monkeypatch):
    """In every fold measurements are borrowed anew, by what is not left out."""
    from accelerate import Accelerator

    import haa_peft.borrowing
    from haa_peft.adapters.methods import MethodSettings
    from haa_peft.training import adapt as training
    from haa_peft.training.settings import TrainingSettings

    asked = []

    def spy(room, lender, backbone, k):
        asked.append((room.splits["train"].tolist(), room.splits["valid"].tolist()))
        return borrow(room, lender, backbone, k)

    monkeypatch.setattr(haa_peft.borrowing, "borrow", spy)
    found = borrow(panel, base, tiny_backbone, 4)
    settings = TrainingSettings(max_steps=1, validate_every=1, k=4, validation="leave-one-out")
    training.adapt(tiny_backbone, found, MethodSettings("bias"), settings, Accelerator(cpu=True), tmp_path)
    own = panel.splits["train"].tolist()
    assert [valid for _, valid in asked] == [[i] for i in own]
    assert all(sorted(train + valid) == sorted(own) for train, valid in asked)


def test_measured_rooms(shared_data):
    """000 lends to 050, where panels damp: what is converted against what was measured at the same positions."""
    base, room = (load_room(shared_data / "r3vival" / name) for name in ("000", "050"))
    few, backbone = room.with_shots(3), load_backbone("small")
    found = borrow_if_better(few, base, backbone)
    assert found.borrowed == 9
    rows = [i for i in room.splits["train"] if i not in few.splits["train"]]
    true = paper_metrics(room.rirs[rows], SAMPLE_RATE)
    converted = paper_metrics(found.rirs[found.splits["train"][3:]], SAMPLE_RATE)
    unconverted = paper_metrics(base.rirs[rows], SAMPLE_RATE)
    for metric, most in (("c50_db", 0.5), ("t60_20_s", 0.5), ("edt_s", 0.5)):
        errors = [np.abs(each[metric] - true[metric]).mean() for each in (converted, unconverted)]
        assert errors[0] < most * errors[1], metric
    # the loudspeaker turned: nothing is gained, nothing borrowed
    hallway = [load_room(shared_data / "haa-reconstruction" / name) for name in ("hallwayBase", "hallwayRotation")]
    assert borrow_if_better(hallway[1].with_shots(3), hallway[0], backbone).borrowed == 0


def test_without_validation_positions(base, panel, tiny_backbone):
    """Every measurement is left out once; of a single one nothing can be told."""
    empty = np.array([], dtype=int)
    alone = panel.with_splits({**panel.splits, "valid": empty})
    assert borrow_if_better(alone, base, tiny_backbone, k=2).borrowed in (0, len(base.splits["train"]) - 3)
    single = panel.with_splits({"train": panel.splits["train"][:1], "valid": empty, "test": empty})
    assert borrow_if_better(single, base, tiny_backbone, k=2) is single


def test_bad_input(base, panel, tiny_backbone):
    other = dataclasses.replace(base, room="cellar")
    with pytest.raises(
        InputError, match=r"cellar/base cannot lend to studio/panel, .* another configuration of studio"
    ):
        borrow(panel, other, tiny_backbone)
    with pytest.raises(InputError, match="studio/base cannot lend to studio/base"):
        borrow(base, base, tiny_backbone)
    full = dataclasses.replace(panel, splits=base.splits)
    with pytest.raises(InputError, match="has no measurement inside studio/panel"):
        borrow(full, base, tiny_backbone)
