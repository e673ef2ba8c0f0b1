import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, load_room
from haa_peft.backbone.checkpoint import fingerprint
from haa_peft.errors import InputError
from haa_peft.inference import predictor as predictor_module
from haa_peft.inference.predict import References, predict_rirs
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

QUERIES = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.5], [3.0, 3.3, 0.7]])


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def store(room, tiny_backbone, tmp_path):
    for i, (configuration, method) in enumerate([("base", "lora"), ("panel", "bias"), ("moved", "full")]):
        name = AdapterName("studio", configuration)
        write_pack(tmp_path / "store", make_pack(room, tiny_backbone, name, shift=0.02 * (i + 1), method=method))
    return tmp_path / "store"


def test_prediction_needs_no_dataset(room, store, tiny_backbone, room_folder):
    from shutil import rmtree

    rmtree(room_folder)
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    rirs = predictor.predict(QUERIES)
    assert (rirs.shape, rirs.dtype) == ((3, 9600), np.float32)
    assert np.isfinite(rirs).all()
    # the same as from the room itself
    expected = predict_rirs(tiny_backbone, References.of_room(room), QUERIES - room.receiver, k=4, seed=0)
    np.testing.assert_allclose(rirs, expected, atol=1e-6)


def test_a_query_does_not_depend_on_its_company(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    together = predictor.predict(QUERIES)
    np.testing.assert_allclose(predictor.predict(QUERIES[1])[0], together[1], atol=1e-5)
    np.testing.assert_allclose(predictor.predict(QUERIES[::-1])[0], together[2], atol=1e-5)
    assert predictor.predict(np.zeros((0, 3))).shape == (0, 9600)
    assert np.abs(predictor.predict(QUERIES, seed=1) - together).max() > 1e-4


def test_switching_gives_what_loading_gives(store, tiny_backbone):
    names = ["studio/base", "studio/panel", "studio/moved"]
    before = fingerprint(tiny_backbone)
    predictor = RoomPredictor.load(names[0], store=store, backbone=tiny_backbone)
    seen = {}
    for name in [*names, *names[::-1]]:
        predictor.switch(name)
        assert predictor.name == name
        rirs = predictor.predict(QUERIES)
        torch.testing.assert_close(rirs, seen.setdefault(name, rirs), rtol=1e-5, atol=1e-5)
    assert np.abs(seen[names[0]] - seen[names[1]]).max() > 1e-4
    predictor._adapter.detach()
    assert fingerprint(tiny_backbone) == before


def test_a_failed_switch_keeps_the_room(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    before = predictor.predict(QUERIES)
    with pytest.raises(InputError, match="no adapter studio/nothing"):
        predictor.switch("studio/nothing")
    adapter = store / "studio" / "panel" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-4])
    with pytest.raises(InputError, match="studio/panel"):
        predictor.switch("studio/panel")
    assert predictor.name == "studio/base"
    np.testing.assert_array_equal(predictor.predict(QUERIES), before)


@pytest.mark.parametrize("step", ["attach_stored", "render_panorama"])
def test_any_other_failure_while_switching_keeps_the_room_too(step, store, tiny_backbone, monkeypatch):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    before = predictor.predict(QUERIES)
    real, calls = getattr(predictor_module, step), []

    def fails_once(*given):
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return real(*given)

    monkeypatch.setattr(predictor_module, step, fails_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        predictor.switch("studio/panel")
    assert predictor.name == "studio/base"
    np.testing.assert_allclose(predictor.predict(QUERIES), before, atol=1e-6)


def test_one_backbone_serves_one_predictor_at_a_time(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    with pytest.raises(InputError, match="carries an adapter already"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    predictor.close()
    RoomPredictor.load("studio/panel", store=store, backbone=tiny_backbone)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[1.0, 2.0]], r"positions are \(1, 2\) but must be \(N, 3\)"),
        ([[1.0, 2.0, np.nan]], "finite metres"),
        ([[7.0, 2.0, 1.0]], r"position \[7.0, 2.0, 1.0\] lies outside studio/base, which spans"),
        ([[2.0, 1.5, 1.2]], "lies at the receiver"),
    ],
)
def test_bad_positions(positions, message, store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    with pytest.raises(InputError, match=message):
        predictor.predict(np.array(positions))


def test_bad_k(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    with pytest.raises(InputError, match="k is 13 but studio/base holds 12 references"):
        predictor.predict(QUERIES, k=13)
