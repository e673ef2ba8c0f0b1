import json
from pathlib import Path

import pytest

from haa_peft.pretraining.weights import provenance

RESULTS = Path(__file__).parents[1] / "recipes" / "results"


@pytest.mark.parametrize("name", ["backbone-unseen.json", "phases.json"])
def test_results_are_of_the_bundled_backbone(name):
    assert json.loads((RESULTS / name).read_text())["fingerprint"] == provenance("small")["fingerprint"]


def test_the_corpus_card_is_of_the_rooms_that_it_was_trained_on():
    assert provenance("small")["corpus"]["sha256"] in (RESULTS / "corpus" / "README.md").read_text()
