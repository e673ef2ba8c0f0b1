import dataclasses

import numpy as np
import pytest
import torch

from haa_peft import RoomPredictor, load_room
from haa_peft.acoustics import paper_metrics
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.adapters.settings import METHODS
from haa_peft.errors import InputError
from haa_peft.inference import loaded as loaded_module
from haa_peft.inference import packs as packs_module
from haa_peft.inference.packs import prepare_pack
from haa_peft.matching import attach_pack
from haa_peft.model import predict as predict_module
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import choose_targets, predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.model.xrir import XRIR
from haa_peft.serving import many as many_module
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.pack_files import to_files
from tests.conftest import TINY
from tests.store.test_store import make_pack

QUERIES = np.array([[1.0, 1.0, 1.0], [4.0, 2.0, 1.5], [3.0, 3.3, 0.7]])


def assert_close(found, expected):
    """To 1e-3 of the largest value: Griffin-Lim amplifies rounding."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


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
    # the same as from the room itself, by the adapter on the backbone
    adapter = attach_pack(tiny_backbone, read_pack(store, AdapterName("studio", "base")))
    expected = predict_rirs(tiny_backbone, RoomTensors.of_room(room), QUERIES - room.receiver, k=4, seed=0)
    assert_close(rirs, expected)
    adapter.detach()
    unadapted = predict_rirs(tiny_backbone, RoomTensors.of_room(room), QUERIES - room.receiver, k=4, seed=0)
    assert np.abs(rirs - unadapted).max() > 1e-2


def test_a_query_does_not_depend_on_its_company(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    together = predictor.predict(QUERIES)
    assert_close(predictor.predict(QUERIES[1])[0], together[1])
    assert_close(predictor.predict(QUERIES[::-1])[0], together[2])
    assert predictor.predict(np.zeros((0, 3))).shape == (0, 9600)
    np.testing.assert_array_equal(predictor.predict(QUERIES, seed=1), together)
    chance = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, phase="random")
    assert_close(chance.predict(QUERIES[1])[0], chance.predict(QUERIES)[1])
    assert np.abs(chance.predict(QUERIES, seed=1) - chance.predict(QUERIES)).max() > 1e-4
    with pytest.raises(InputError, match="phase is 'zero' but must be one of references, random"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, phase="zero")


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


@pytest.mark.parametrize("step", ["read_pack", "tensors_of"])
def test_any_other_failure_while_switching_keeps_the_room_too(step, store, tiny_backbone, monkeypatch):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    before = predictor.predict(QUERIES)

    def fails(*given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loaded_module, step, fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        predictor.switch("studio/panel")
    assert predictor.name == "studio/base"
    np.testing.assert_array_equal(predictor.predict(QUERIES), before)


def test_the_backbone_stays_free(store, tiny_backbone):
    """It can be trained on, and serve other predictors, while a predictor made from it is in use."""
    first = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    before = first.predict(QUERIES)
    second = RoomPredictor.load("studio/moved", store=store, backbone=tiny_backbone)
    adapter = attach(tiny_backbone, MethodSettings("full"), seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    np.testing.assert_array_equal(first.predict(QUERIES), before)
    with pytest.raises(InputError, match="carries an adapter already"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    second.close()
    with pytest.raises(InputError, match="no adapter is loaded"):
        second.predict(QUERIES)


def test_loaded_rooms_stay_until_others_push_them_out(store, tiny_backbone, monkeypatch):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, max_loaded=2)
    reads = []
    real = loaded_module.read_pack
    monkeypatch.setattr(loaded_module, "read_pack", lambda *given: (reads.append(str(given[1])), real(*given))[1])
    predictor.switch("studio/panel")
    predictor.switch("studio/base")
    predictor.switch("studio/moved")
    assert predictor.loaded == ["studio/base", "studio/moved"]
    predictor.switch("studio/base")
    predictor.switch("studio/panel")
    assert reads == ["studio/panel", "studio/moved", "studio/panel"]
    with pytest.raises(InputError, match="max_loaded is 0"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, max_loaded=0)


def test_a_room_stored_anew_is_loaded_anew(room, store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    before = predictor.predict(QUERIES)
    write_pack(store, make_pack(room, tiny_backbone, AdapterName("studio", "base"), shift=0.1))
    predictor.switch("studio/base")
    assert np.abs(predictor.predict(QUERIES) - before).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"merged": True}], ids=str)
@pytest.mark.parametrize("changes", [{}, {"align_before_encoding": True, "normalisation": "batch"}], ids=str)
def test_every_method_in_one_batch(options, changes, room, tmp_path):
    """Rows of rooms adapted by all methods, against each adapter on the backbone alone; log-spectrograms to 1e-5."""
    torch.manual_seed(0)
    backbone = XRIR(dataclasses.replace(TINY, **changes)).eval().requires_grad_(False)
    possible = [method for method in METHODS if method != "statistics" or changes]
    names = {method: AdapterName("studio", method) for method in possible}
    for i, (method, name) in enumerate(names.items()):
        write_pack(tmp_path, make_pack(room, backbone, name, shift=0.02 * (i % 3 + 1), method=method))
    predictor = RoomPredictor.load("studio/lora", store=tmp_path, backbone=backbone, **options)
    seen = []
    real = predict_module.waveforms
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many_module, "positions_at_once", lambda *_: 64)
        patch.setattr(predict_module, "waveforms", lambda logs, *given: (seen.append(logs), real(logs, *given))[1])
        answers = predictor.predict_many([(str(name), QUERIES[i % 3 :]) for i, name in enumerate(names.values())])
    assert len(seen) == 1
    sizes = [3 - i % 3 for i in range(len(names))]
    assert [len(answer) for answer in answers] == sizes
    for i, name in enumerate(names.values()):
        alone = RoomPredictor.load(str(name), store=tmp_path, backbone=backbone, **options)
        assert_close(answers[i], alone.predict(QUERIES[i % 3 :]))
        adapter = attach_pack(backbone, read_pack(tmp_path, name))
        with torch.no_grad():
            (encoded,) = backbone.encode([RoomTensors.of_room(room)])
            targets = choose_targets(encoded, QUERIES[i % 3 :] - room.receiver, 4)
            expected = backbone.predict([(encoded, targets)])
        adapter.detach()
        ours = seen[0].split(sizes)[i]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert predictor.name == "studio/lora"


def test_many_requests_come_back_in_order(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, max_loaded=1)
    rng = np.random.default_rng(0)
    positions = rng.uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (40, 3))
    asked = [("studio/panel", positions[:17]), ("studio/base", positions[17:18]), ("studio/panel", positions[18:])]
    asked.append(("studio/moved", np.zeros((0, 3))))
    answers = predictor.predict_many(asked)
    assert [len(answer) for answer in answers] == [17, 1, 22, 0]
    predictor.switch("studio/panel")
    assert_close(np.concatenate([answers[0], answers[2]]), predictor.predict(np.delete(positions, 17, axis=0)))
    with pytest.raises(InputError, match="lies outside studio/base"):
        predictor.predict_many([("studio/panel", positions[0]), ("studio/base", [9.0, 1.0, 1.0])])


def test_a_query_encodes_its_own_view_alone(room, tmp_path, monkeypatch):
    """And, where references are encoded as aligned, the K spectrograms that are aligned to it."""
    for changes, pairs in (({}, 0), ({"align_before_encoding": True}, 3 * 4)):
        torch.manual_seed(0)
        backbone = XRIR(dataclasses.replace(TINY, **changes)).eval().requires_grad_(False)
        write_pack(tmp_path, make_pack(room, backbone, AdapterName("studio", "base")))
        predictor = RoomPredictor.load("studio/base", store=tmp_path, backbone=backbone)
        seen = {"encode_views": 0, "encode_audio": 0}
        for encoder in seen:
            real = getattr(XRIR, encoder)

            def counted(network, x, encoder=encoder, real=real, seen=seen):
                seen[encoder] += x.shape[: -2 if encoder == "encode_audio" else 1].numel()
                return real(network, x)

            monkeypatch.setattr(XRIR, encoder, counted)
        predictor.predict(QUERIES)
        monkeypatch.undo()
        assert seen == {"encode_views": 3, "encode_audio": pairs}


def test_more_rooms_than_stay_loaded(store, tiny_backbone, monkeypatch):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, max_loaded=1)
    reads = []
    real = loaded_module.read_pack
    monkeypatch.setattr(loaded_module, "read_pack", lambda *given: (reads.append(str(given[1])), real(*given))[1])
    names = ["studio/panel", "studio/base", "studio/moved", "studio/panel"]
    predictor.predict_many([(name, QUERIES) for name in names])
    assert reads == ["studio/panel", "studio/moved"]  # each once, and the one in use not at all
    assert predictor.loaded == ["studio/base"]


def test_thousands_of_positions_stream_in_parts(store, tiny_backbone):
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    positions = np.random.default_rng(0).uniform([0.3, 0.3, 0.5], [5.7, 3.7, 2.0], (10_000, 3))
    stream = predictor.stream(positions)
    first = next(stream)
    assert len(first) <= 128
    predictor.switch("studio/panel")  # a stream stays with its room
    second = next(stream)
    predictor.switch("studio/base")
    assert_close(np.concatenate([first, second]), predictor.predict(positions[: len(first) + len(second)]))


def test_a_pack_may_hold_its_prepared_room(room, store, tiny_backbone, monkeypatch):
    name = AdapterName("studio", "base")
    plain = RoomPredictor.load(str(name), store=store, backbone=tiny_backbone).predict(QUERIES)
    pack = prepare_pack(tiny_backbone, read_pack(store, name))
    write_pack(store, pack)
    for module, function in ((packs_module, "render_panorama"), (XRIR, "encode")):
        monkeypatch.setattr(module, function, None)  # nothing is rendered or encoded
    predictor = RoomPredictor.load(str(name), store=store, backbone=tiny_backbone)
    assert_close(predictor.predict(QUERIES), plain)
    # what it was prepared from counts: with another adapter it is not stored
    other = dataclasses.replace(pack, tensors={key: 2 * tensor for key, tensor in pack.tensors.items()})
    assert set(to_files(pack)) - set(to_files(other)) == {"prepared.safetensors"}
    broken = {**pack.prepared, "views": pack.prepared["views"][:5]}
    write_pack(store, dataclasses.replace(pack, prepared=broken))
    with pytest.raises(InputError, match=r"prepared.safetensors has views of \(5, 32\) but it must be \(12, 32\)"):
        predictor.switch(str(name))


def test_lower_precision(store, tiny_backbone):
    exact = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    lower = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, precision="bfloat16")
    assert not np.array_equal(exact.predict(QUERIES), lower.predict(QUERIES))
    true = paper_metrics(exact.predict(QUERIES), 22_050)
    found = paper_metrics(lower.predict(QUERIES), 22_050)
    np.testing.assert_allclose(found["c50_db"], true["c50_db"], atol=0.1)
    with pytest.raises(InputError, match="precision is 'int4' but must be one of float32, bfloat16"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, precision="int4")


def test_switching_compiles_nothing_again(store, tiny_backbone, monkeypatch):
    """With what dynamo traces; compiling that to machine code takes half a minute and is the benchmark's business."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: compile_module(block, backend="eager", **how))
    plain = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone, compiled=True)
    predictor.predict(QUERIES)
    predictor.predict(QUERIES[:2])
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    monkeypatch.setattr(config, "error_on_recompile", True)
    names = ("studio/panel", "studio/moved", "studio/base")
    for name in names:
        for each in (plain, predictor):
            each.switch(name)
        assert_close(predictor.predict(QUERIES), plain.predict(QUERIES))
    requests = [(name, QUERIES) for name in names]
    for compiled, eager in zip(predictor.predict_many(requests), plain.predict_many(requests), strict=True):
        assert_close(compiled, eager)
    predictor.predict(QUERIES[:1])
    assert counters["stats"]["unique_graphs"] == before


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
