import json

import numpy as np
import pytest

from haa_peft.evaluation.corpus_card import corpus_quantities, write_card
from haa_peft.rooms import corpus as corpus_module
from haa_peft.rooms.corpus import Corpus, simulate_corpus, write_shard
from haa_peft.rooms.drawing import draw_room
from tests.conftest import decaying_noise


@pytest.fixture
def corpus_folder(tmp_path, monkeypatch):
    """Three rooms whose RIRs decay in 0.3 s."""

    def made_up(room, seed):
        return decaying_noise(16, 9600, 22_050, 0.3, np.linalg.norm(room.positions - room.receiver, axis=1))

    monkeypatch.setattr(corpus_module, "simulate", made_up)
    monkeypatch.setattr(corpus_module, "ROOMS_PER_SHARD", 3)
    write_shard(tmp_path, 0, False, 0)
    simulate_corpus(tmp_path, 3, 0, workers=1)  # nothing is missing: describes it
    return tmp_path


def test_what_it_says_is_what_was_drawn(corpus_folder):
    found = corpus_quantities(Corpus(corpus_folder))
    rooms = [draw_room(0, index) for index in range(3)]
    np.testing.assert_allclose(found["volume"], [room.volume for room in rooms], rtol=1e-6)
    distance = np.concatenate([np.linalg.norm(room.positions - room.receiver, axis=1) for room in rooms])
    np.testing.assert_allclose(found["distance"], distance, rtol=1e-5)
    assert np.median(found["t60_20_s"]) == pytest.approx(0.3, rel=0.1)


def test_the_page_and_the_figure(corpus_folder, tmp_path):
    page = write_card(corpus_folder, tmp_path / "card")
    assert (tmp_path / "card" / "README.md").read_text() == page
    assert (tmp_path / "card" / "corpus.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 rooms of 16 positions" in page
    assert json.loads((corpus_folder / "corpus.json").read_text())["seed"] == 0
