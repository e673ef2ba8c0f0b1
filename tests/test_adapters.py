"""The store that the repository ships."""

from pathlib import Path

import pytest

from haa_peft import RoomPredictor, load_backbone
from haa_peft.matching import attach_pack
from haa_peft.store.folder import read_pack
from haa_peft.store.names import AdapterName, iterate_names

STORE = Path(__file__).parents[1] / "adapters"
NAMES = [name for name in iterate_names(STORE) if name.variant != "trial"]


def test_the_twins_are_there():
    for room in ("classroom-twin", "dampened-twin"):
        for configuration in ("base", "rotation", "translation", "panel"):
            assert AdapterName(room, configuration) in NAMES


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_shipped_adapters_are_of_the_bundled_backbone(name):
    pack = read_pack(STORE, name)
    attach_pack(load_backbone("small"), pack).detach()
    assert len(pack.rirs) == 12
    assert pack.card["evaluation"]["rows"][0]["predictor"] == "nearest"


def test_a_shipped_adapter_predicts():
    predictor = RoomPredictor.load("classroom-twin/base", store=STORE)
    rirs = predictor.predict([[3.0, 2.0, 1.3], [5.0, 6.0, 1.3]])
    assert rirs.shape == (2, 9600)
    predictor.switch("classroom-twin/panel")
    assert predictor.name == "classroom-twin/panel"
