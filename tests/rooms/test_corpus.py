import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.rooms import corpus as corpus_module
from haa_peft.rooms.corpus import Corpus, shard_path, simulate_corpus
from haa_peft.rooms.simulation import ShoeboxRoom, draw_room, eyring_absorption, simulate


def even_room(t60):
    size = np.array([6.0, 5.0, 3.0])
    absorption = np.full((6, 7), eyring_absorption(size, t60))
    positions = np.array([[4.5, 3.5, 1.5], [1.0, 4.0, 1.0], [5.0, 1.0, 2.0]])
    return ShoeboxRoom(size, absorption, 0.3, np.array([1.5, 1.5, 1.2]), positions)


@pytest.mark.parametrize("t60", [0.2, 0.4])
def test_decay_is_eyrings_and_sound_arrives_in_time(t60):
    room = even_room(t60)
    rirs = simulate(room, seed=1)
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    onset = (np.abs(rirs) > 0.5 * np.abs(rirs).max(axis=1, keepdims=True)).argmax(axis=1)
    assert np.abs(onset - distance / 343 * 22_050).max() <= 2
    decay = np.cumsum(rirs[:, ::-1] ** 2, axis=1)[:, ::-1]
    level = 10 * np.log10(decay / decay[:, :1] + 1e-12)
    measured = [3 * ((row < -25).argmax() - (row < -5).argmax()) / 22_050 for row in level]
    assert np.mean(measured) == pytest.approx(t60, rel=0.2)


def test_rooms_are_deterministic_and_differ():
    first, again, other = draw_room(0, 3), draw_room(0, 3), draw_room(0, 4)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert not np.array_equal(first.size, other.size)
    np.testing.assert_array_equal(simulate(even_room(0.2), 5), simulate(even_room(0.2), 5))
    for index in range(50):
        room = draw_room(1, index)
        assert (room.positions > 0).all()
        assert (room.positions < room.size).all()
        assert np.linalg.norm(room.positions - room.receiver, axis=1).min() >= 0.4


def test_corpus_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "ROOMS_PER_SHARD", 1)
    simulate_corpus(tmp_path, 1, seed=0, workers=1)
    first = shard_path(tmp_path, 0)
    made = first.stat().st_mtime_ns
    simulate_corpus(tmp_path, 2, seed=0, workers=1)
    assert first.stat().st_mtime_ns == made
    corpus = Corpus.load(tmp_path)
    assert corpus.rirs.shape == (2, 16, 9600)
    np.testing.assert_allclose(np.abs(corpus.rirs).max(axis=(1, 2)), 1, rtol=1e-3)
    with pytest.raises(InputError, match="holds another corpus"):
        simulate_corpus(tmp_path, 1, seed=9)
    with pytest.raises(InputError, match="holds no rooms"):
        Corpus.load(tmp_path / "empty")
