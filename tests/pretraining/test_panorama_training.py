"""Drawing what the panorama network learns from, and its recipe."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch

from haa_peft.errors import InputError
from haa_peft.geometry.estimate.echo_maps import HEIGHT, WIDTH
from haa_peft.geometry.estimate.network import load_network
from haa_peft.geometry.panorama import directions, render_depth
from haa_peft.pretraining.echo_draws import draw_maps
from haa_peft.simulation.corpus import Corpus
from tests.pretraining.test_pretraining import RECIPE, load_recipe


def test_draws_are_seeded_and_true_depth_is_the_room_s(simulated_corpus):
    corpus = Corpus(simulated_corpus)
    for plain in (True, False):
        first, again = (draw_maps(corpus, 0, plain, (1, 1)) for _ in range(2))
        np.testing.assert_array_equal(first[0], again[0])
    counts = [float(draw_maps(corpus, 0, False, (1, draw))[0][-5, 0, 0]) for draw in range(4)]
    assert counts[0] == counts[2] == 1  # twelve of twelve
    assert 0.2 < min(counts[1], counts[3]) < 1
    assert not np.array_equal(draw_maps(corpus, 0, True, (1, 0))[0], draw_maps(corpus, 0, False, (1, 0))[0])
    room = corpus[1]
    fine = np.log(render_depth(room.surfaces, room.receiver, directions()))
    np.testing.assert_allclose(first[1], fine.reshape(HEIGHT, 16, WIDTH, 16).mean(axis=(1, 3)), atol=0.15)


def test_the_recipe_trains_and_goes_on(simulated_corpus, tmp_path, monkeypatch):
    recipe = load_recipe(RECIPE.with_name("pretrain_panorama.py"))
    common = ["--corpus", simulated_corpus, "--count", 3, "--validation-rooms", 1, "--draws", 1, "--batch", 2,
              "--max-steps", 2, "--validate-every", 1, "--workers", 1]  # fmt: skip

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["pretrain_panorama.py", *map(str, (*common, *options))])
        recipe.main()

    run("--out", tmp_path / "first.safetensors")
    about = json.loads((tmp_path / "first.json").read_text())
    assert [point["step"] for point in about["curve"]] == [0, 1, 2]
    assert about["sha256"] == hashlib.sha256((tmp_path / "first.safetensors").read_bytes()).hexdigest()
    assert about["corpus"]["seed"] == 5
    weights = load_network(tmp_path / "first.safetensors").state_dict()
    run("--start", tmp_path / "first.safetensors", "--lr", 1e-9, "--seed", 1, "--out", tmp_path / "second.safetensors")
    assert json.loads((tmp_path / "second.json").read_text())["start"] == about
    content = (tmp_path / "first.safetensors").read_bytes()
    (tmp_path / "other.safetensors").write_bytes(content)
    (tmp_path / "other.json").write_text(json.dumps({**about, "sha256": "of others"}))
    run("--start", tmp_path / "other.safetensors", "--out", tmp_path / "third.safetensors")
    started = json.loads((tmp_path / "third.json").read_text())["start"]
    assert started == {"sha256": hashlib.sha256(content).hexdigest()}  # nobody tells another's story
    for name, tensor in load_network(tmp_path / "second.safetensors").state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-3)  # stored in half precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--count 5 --validation-rooms 5", "--validation-rooms is 5 but must be at most 4"),
        ("--draws 0", "--draws is 0"),
        ("--workers 0", "--workers is 0"),
        ("--out panorama.pt", "must end in .safetensors"),
        ("--start nowhere.safetensors", "--start is 'nowhere.safetensors'"),
        ("--start a.safetensors --out ./a.safetensors", "--out is 'a.safetensors', which --start reads"),
    ],
)
def test_bad_options(options, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrain_panorama.py", *options.split()])
    with pytest.raises(InputError, match=message):
        load_recipe(RECIPE.with_name("pretrain_panorama.py")).main()
    assert not list(tmp_path.iterdir())
