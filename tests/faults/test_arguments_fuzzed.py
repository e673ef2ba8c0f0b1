"""Public functions with arguments that are none: one line, whatever they are given."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from haa_peft import RoomPredictor, adapt_room, load_backbone, load_room
from haa_peft.acoustics import iso_metrics, paper_metrics
from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import LONGEST, InputError
from haa_peft.store.folder import write_pack
from haa_peft.training.settings import TrainingSettings
from tests.store.test_store import NAME, make_pack

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=20),
    st.binary(max_size=20), st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    arrays.arrays(st.sampled_from([np.float64, np.int8, np.complex64, np.bool_]),
                  arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)),
)  # fmt: skip


def refused(call, *given, **named):
    """What a call gives, or None where it is refused as it should be."""
    try:
        return call(*given, **named)
    except InputError as error:
        line = str(error)
    assert len(line) <= LONGEST
    assert line.isprintable()
    return None


@pytest.fixture
def predictor(room_folder, tiny_backbone, tmp_path):
    write_pack(tmp_path / "store", make_pack(load_room(room_folder), tiny_backbone))
    return RoomPredictor.load(str(NAME), store=tmp_path / "store", backbone=tiny_backbone)


@FEW
@given(positions=ANYTHING, k=st.one_of(st.none(), ANYTHING), seed=st.one_of(st.just(0), ANYTHING))
def test_predict(predictor, positions, k, seed):
    for found in (
        refused(predictor.predict, positions, k=k, seed=seed),
        *(refused(predictor.predict_many, [(str(NAME), positions)], k=k, seed=seed) or ()),
    ):
        assert found is None or (found.shape[1:] == (9600,) and np.isfinite(found).all())


@FEW
@given(name=ANYTHING, requests=ANYTHING)
def test_names_and_requests(predictor, name, requests):
    assert refused(predictor.switch, name) is None
    assert refused(predictor.predict_many, [(name, [1.0, 1.0, 1.0])]) is None
    assert refused(predictor.predict_many, [requests]) is None
    assert predictor.name == str(NAME)


@FEW
@given(option=st.sampled_from(["store", "backbone", "device", "max_loaded", "merged", "precision", "phase", "allowed"]),
       value=ANYTHING)  # fmt: skip
def test_options_of_a_predictor(predictor, tiny_backbone, option, value):
    usual = {"store": predictor._store, "backbone": tiny_backbone}
    if isinstance(value, np.ndarray) or option == "compiled":
        return
    found = refused(RoomPredictor.load, str(NAME), **{**usual, option: value})
    assert found is None or found.name == str(NAME)


@FEW
@given(source=ANYTHING)
def test_load_backbone(source):
    assert refused(load_backbone, source) is None


@FEW
@given(path=st.one_of(st.text(max_size=20), st.just("\0")), geometry=ANYTHING)
def test_load_room(path, geometry):
    assert refused(load_room, path, geometry) is None


@FEW
@given(argument=st.sampled_from(["room", "method", "training", "backbone"]), value=ANYTHING)
def test_adapt_room(argument, value):
    given = {"room": value, "method": MethodSettings(), "training": TrainingSettings(), "backbone": value}
    assert refused(adapt_room, **{**given, argument: value}) is None


@FEW
@given(rirs=ANYTHING, sample_rate=st.one_of(st.just(22_050), ANYTHING))
def test_metrics(rirs, sample_rate):
    for metrics in (iso_metrics, paper_metrics):
        refused(metrics, rirs, sample_rate)


@pytest.mark.parametrize(
    ("positions", "message"),
    [([[1 + 1j, 1.0, 1.0]], "positions are of complex128 but must be real numbers"),
     ([["1", "1", "1"]], "positions are of <U1"), (None, "positions are of object"),
     ([[1.0, 1.0], [1.0]], "positions cannot be read as an array"), ([[True, True, True]], "positions are of bool")],
)  # fmt: skip
def test_positions(positions, message, predictor):
    with pytest.raises(InputError, match=message):
        predictor.predict(positions)


def test_no_positions(predictor):
    for none in ([], (), np.zeros((0, 3)), np.zeros(0)):
        assert predictor.predict(none).shape == (0, 9600)
        assert predictor.predict_many([(str(NAME), none)])[0].shape == (0, 9600)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"k": True}, "k is True but must be a whole number"), ({"k": 2.0}, "k is 2.0"), ({"k": "4"}, "k is '4'"),
     ({"k": 0}, "k is 0 but studio/base holds 12 references"), ({"seed": -1}, "seed is -1"),
     ({"seed": None}, "seed is")],
)  # fmt: skip
def test_k_and_seed(option, message, predictor):
    with pytest.raises(InputError, match=message):
        predictor.predict([1.0, 1.0, 1.0], **option)
    with pytest.raises(InputError, match=message):
        predictor.predict_many([(str(NAME), [1.0, 1.0, 1.0])], **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"device": "cuda:99"}, "device is 'cuda:99' but it cannot be used"), ({"device": "moon"}, "device is 'moon'"),
     ({"device": "meta"}, "it computes nothing"), ({"store": 3}, "store is 3 but must be a folder's path"),
     ({"backbone": 3}, "backbone is 3"), ({"max_loaded": True}, "max_loaded is True"),
     ({"max_loaded": 1.5}, "max_loaded"),
     ({"merged": 1}, "merged is 1 but must be True or False"), ({"allowed": "ab"}, "allowed is 'ab'")],
)  # fmt: skip
def test_options(option, message, predictor, tiny_backbone):
    usual = {"store": predictor._store, "backbone": tiny_backbone}
    with pytest.raises(InputError, match=message):
        RoomPredictor.load(str(NAME), **{**usual, **option})


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_another_default_type(kind, predictor, tiny_backbone):
    torch.set_default_dtype(kind)
    try:
        for call in (
            load_backbone,
            lambda: RoomPredictor.load(str(NAME), store=predictor._store, backbone=tiny_backbone),
            lambda: predictor.predict([1.0, 1.0, 1.0]),
            lambda: predictor.predict_many([(str(NAME), [1.0, 1.0, 1.0])]),
        ):
            with pytest.raises(InputError, match=f"torch's default type is {kind} but must be torch.float32 here"):
                call()
    finally:
        torch.set_default_dtype(torch.float32)
