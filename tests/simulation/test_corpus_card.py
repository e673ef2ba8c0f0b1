import json

import numpy as np
import pytest

from haa_peft.simulation.corpus import Corpus
from haa_peft.simulation.corpus_card import corpus_quantities, write_card
from haa_peft.simulation.draw import draw_room


def test_what_it_says_is_what_was_drawn(simulated_corpus):
    found = corpus_quantities(Corpus(simulated_corpus))
    rooms = [draw_room(5, index) for index in range(3)]
    np.testing.assert_allclose(found["volume"], [room.volume for room in rooms], rtol=1e-6)
    distance = np.concatenate([np.linalg.norm(room.positions - room.receiver, axis=1) for room in rooms])
    np.testing.assert_allclose(found["distance"], distance, rtol=1e-5)
    assert np.median(found["t60_20_s"]) == pytest.approx(0.3, rel=0.1)


def test_the_page_and_the_figure(simulated_corpus, tmp_path):
    page = write_card(simulated_corpus, tmp_path / "card")
    assert (tmp_path / "card" / "README.md").read_text() == page
    assert (tmp_path / "card" / "corpus.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 rooms of 16 positions" in page
    assert json.loads((simulated_corpus / "corpus.json").read_text())["seed"] == 5
