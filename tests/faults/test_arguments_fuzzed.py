"""Public functions with arguments that are none: one line, whatever they are given."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from haa_peft import RoomPredictor, adapt_room, load_backbone, load_room
from haa_peft.acoustics import energy_decay_loss, iso_metrics, paper_metrics, stft_l1_loss
from haa_peft.adapters.methods import MethodSettings
from haa_peft.errors import LONGEST, InputError
from haa_peft.model.xrir import XRIR
from haa_peft.store.folder import write_pack
from haa_peft.training.settings import TrainingSettings
from tests.store.test_store import NAME, make_pack

HERE = [1.0, 1.0, 1.0]
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
@given(option=st.sampled_from(["sample_rate", "length", "receiver"]), value=ANYTHING)
def test_extent_and_receiver(predictor, option, value):
    request = (str(NAME), HERE, value) if option == "receiver" else (str(NAME), HERE)
    more = {} if option == "receiver" else {option: value}
    one, many = refused(predictor.predict, HERE, **{option: value}), refused(predictor.predict_many, [request], **more)
    if one is not None and value is not None and option != "receiver":
        assert isinstance(value, int | float | np.ndarray)
    assert (one is None) == (many is None)
    assert one is None or np.array_equal(one, many[0])


@FEW
@given(metrics=st.one_of(ANYTHING, ANYTHING.map(lambda one: [one])), band=ANYTHING, positions=ANYTHING)
def test_predict_metrics(predictor, metrics, band, positions):
    assert refused(predictor.predict_metrics, HERE, metrics) is None
    assert refused(predictor.predict_metrics, HERE, ("c50",), band) is None
    found = refused(predictor.predict_metrics, positions)
    assert found is None or np.size(positions) == 3 * len(found["c50"].values)


@FEW
@given(name=ANYTHING, requests=ANYTHING)
def test_names_and_requests(predictor, name, requests):
    assert refused(predictor.switch, name) is None
    assert refused(predictor.predict_many, [(name, [1.0, 1.0, 1.0])]) is None
    assert refused(predictor.predict_many, [requests]) is None
    assert refused(predictor.predict_many, requests) in (None, [])
    assert predictor.name == str(NAME)


@FEW
@given(option=st.sampled_from(["store", "backbone", "device", "max_loaded", "merged", "precision", "phase", "allowed"]),
       value=ANYTHING)  # fmt: skip
def test_options_of_a_predictor(predictor, tiny_backbone, option, value):
    usual = {"store": predictor._store, "backbone": tiny_backbone}
    found = refused(RoomPredictor.load, str(NAME), **{**usual, option: value})
    assert found is None or found.name == str(NAME)


@FEW
@given(source=ANYTHING)
def test_load_backbone(source):
    assert refused(load_backbone, source) is None


@FEW
@given(path=st.one_of(ANYTHING, st.just("\0")), geometry=ANYTHING)
def test_load_room(path, geometry):
    assert refused(load_room, path, geometry) is None


@FEW
@given(argument=st.sampled_from(["room", "method", "training", "backbone"]), value=ANYTHING)
def test_adapt_room(argument, value):
    given = {"room": value, "method": MethodSettings(), "training": TrainingSettings(), "backbone": value}
    assert refused(adapt_room, **{**given, argument: value}) is None


@FEW
@given(option=st.sampled_from(["start", "on_top_of", "borrow", "first_stage"]), value=ANYTHING)
def test_beginnings(room_folder, tiny_backbone, tmp_path, option, value):
    usual = {"backbone": tiny_backbone, "store": tmp_path}
    if value is None or (option == "first_stage" and isinstance(value, list) and not value):
        return
    method, training = MethodSettings(), TrainingSettings()
    assert refused(adapt_room, load_room(room_folder), method, training, **usual, **{option: value}) is None


@FEW
@given(first=ANYTHING, second=ANYTHING)
def test_losses_and_the_network(tiny_backbone, first, second):
    for loss in (stft_l1_loss, energy_decay_loss):
        assert refused(loss, first, second) is None
        assert refused(loss, torch.zeros(1, 63, 310), second) is None
    assert refused(tiny_backbone, first, second, first, second) is None
    assert first is None or refused(XRIR, first) is None


@FEW
@given(bands=st.one_of(ANYTHING, ANYTHING.map(lambda one: [one])), headroom_db=ANYTHING)
def test_bands_and_headroom(bands, headroom_db):
    rirs = np.exp(-np.arange(2000) / 200)[None]
    found = refused(iso_metrics, rirs, 8000, bands=bands)
    assert found is None or len(found) <= 1 + len(bands)
    refused(iso_metrics, rirs, 8000, headroom_db=headroom_db)


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


@pytest.mark.parametrize(
    ("option", "message"),
    [({"length": np.array([1.0, 2.0])}, "length is array"), ({"length": 10**400}, "length is 1000"),
     ({"length": "whole"}, "length is 'whole'"), ({"sample_rate": 0}, "sample_rate is 0"),
     ({"sample_rate": [22_050]}, "sample_rate is")],
)  # fmt: skip
def test_extents(option, message, predictor):
    with pytest.raises(InputError, match=message):
        predictor.predict(HERE, **option)
    with pytest.raises(InputError, match=message):
        predictor.predict_many([(str(NAME), HERE)], **option)


@pytest.mark.parametrize("requests", [None, 5, "ab", {}, (pair for pair in [(str(NAME), HERE)])])
def test_requests(requests, predictor):
    with pytest.raises(InputError, match="requests is .* but must be a list of pairs"):
        predictor.predict_many(requests)


def test_losses():
    with pytest.raises(InputError, match="log_spectrogram is None but must be a tensor"):
        energy_decay_loss(None, None)
    with pytest.raises(InputError, match=r"\(2, 63, 310\) but target_magnitude \(3, 63, 310\)"):
        energy_decay_loss(torch.zeros(2, 63, 310), torch.zeros(3, 63, 310))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({0: None}, "panorama is None"), ({0: torch.zeros(1, 2, 256, 512)}, r"panorama is \(1, 2, 256, 512\)"),
     ({1: torch.zeros(1, 4, 100)}, r"reference_rirs is \(1, 4, 100\)"), ({2: torch.zeros(3)}, "target_position is"),
     ({3: torch.zeros(1, 5, 3)}, r"reference_positions is \(1, 5, 3\) .* K = 4")],
)  # fmt: skip
def test_the_network(wrong, message, tiny_backbone):
    inputs = [torch.zeros(1, 3, 256, 512), torch.zeros(1, 4, 9600), torch.zeros(1, 3), torch.zeros(1, 4, 3)]
    with pytest.raises(InputError, match=message):
        tiny_backbone(*(wrong.get(i, one) for i, one in enumerate(inputs)))


def test_far_away(room_folder, tiny_backbone, tmp_path):
    room = load_room(room_folder, "none")
    pack = make_pack(room, tiny_backbone)
    write_pack(tmp_path, pack)
    here = RoomPredictor.load(str(NAME), store=tmp_path, backbone=tiny_backbone)
    for x in (1e12, 1e30, -1e300):
        with pytest.raises(InputError, match="too far from the receiver of .* within 1000 m"):
            here.predict([[x, 0.8, 0.0]])
    assert here.predict(pack.receiver + np.array([0.0, 999.0, 0.0])).shape == (1, 9600)


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
