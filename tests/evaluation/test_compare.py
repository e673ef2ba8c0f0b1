"""Tables are measured on what is served; attached modules are the other way to compute an adapter."""

import numpy as np
import pytest

from haa_peft import RoomPredictor, load_room
from haa_peft.adapters.methods import attach_stored
from haa_peft.evaluation.compare import Candidate, compare
from haa_peft.evaluation.evaluate import Metrics, errors
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.predict import predict_rirs
from haa_peft.model.tensors import RoomTensors
from haa_peft.store.folder import write_pack
from haa_peft.store.names import AdapterName
from tests.store.test_store import make_pack

METHODS = ("lora", "norm", "bias", "full")


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


def test_a_table_has_the_errors_of_attached_adapters(room, tiny_backbone):
    packs = {method: make_pack(room, tiny_backbone, method=method, shift=0.02) for method in METHODS}
    candidates = {method: Candidate(pack.config, pack.tensors, {"bytes": 7}) for method, pack in packs.items()}
    before = fingerprint(tiny_backbone)
    report = compare(room, tiny_backbone, candidates, 4, 0)
    assert fingerprint(tiny_backbone) == before
    rows = {row["predictor"]: row for row in report["rows"]}
    assert list(rows) == ["nearest", "linear", "energy", "backbone", *METHODS]
    assert rows["lora"]["bytes"] == 7
    test = room.splits["test"]
    true, asked = Metrics.of(room.rirs[test], iso=False), room.positions[test] - room.receiver
    seen = []
    for name in ("backbone", *METHODS):
        pack = packs.get(name)
        adapter = None if pack is None else attach_stored(tiny_backbone, pack.config, pack.tensors)
        predicted = predict_rirs(tiny_backbone, RoomTensors.of_room(room), asked, 4, 0)
        if adapter is not None:
            adapter.detach()
        expected = errors(Metrics.of(predicted, iso=False), true)
        for metric in ("edt_s", "c50_db", "t60_percent"):
            np.testing.assert_allclose(rows[name]["per_position"][metric], expected[metric], rtol=1e-3, atol=1e-4)
        seen.append(tuple(expected["c50_db"].round(3)))
    assert len(set(seen)) == len(seen)  # all five are different predictors


def test_a_table_has_the_errors_of_what_a_predictor_gives(room, tiny_backbone, tmp_path):
    pack = make_pack(room, tiny_backbone, AdapterName("studio", "base"), shift=0.02)
    write_pack(tmp_path, pack)
    report = compare(room, tiny_backbone, {"lora": Candidate(pack.config, pack.tensors, {})}, 4, 0, "valid")
    valid = room.splits["valid"]
    predictor = RoomPredictor.load("studio/base", store=tmp_path, backbone=tiny_backbone)
    served = errors(Metrics.of(predictor.predict(room.positions[valid])), Metrics.of(room.rirs[valid]))
    for metric in ("edt_s", "c50_db", "envelope_percent"):
        np.testing.assert_allclose(report["rows"][-1]["per_position"][metric], served[metric], rtol=1e-6)
