import json

import numpy as np
import pytest

from haa_peft.errors import InputError
from haa_peft.rooms.load import load_room
from haa_peft.simulation import simulated
from haa_peft.simulation.cache import FILES
from haa_peft.simulation.draw import draw_room
from tests.conftest import decaying_noise


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Noise instead of a simulation, and the seeds that asked for it."""
    calls = []

    def simulate(room, seed):
        calls.append(seed)
        distance = np.linalg.norm(room.positions - room.receiver, axis=1)
        return decaying_noise(len(distance), 9600, 22_050, 0.3, distance)

    monkeypatch.setattr(simulated, "simulate", simulate)
    monkeypatch.setenv("HAA_PEFT_CACHE", str(tmp_path / "cache"))
    return calls


@pytest.mark.parametrize("index", [1, 4, 9, 10])  # two obstacles, a box, one skewed and one cut
def test_a_room_is_that_of_the_corpus_with_more_positions(index, made_up, tmp_path, capsys):
    room, drawn = load_room(f"simulated/1000-{index}"), draw_room(1000, index)
    assert room.name == f"simulated/1000-{index}"
    np.testing.assert_array_equal(room.receiver, drawn.receiver)
    np.testing.assert_array_equal(room.positions[: len(drawn.positions)], drawn.positions)
    np.testing.assert_allclose(room.surfaces.points, drawn.surfaces.points)
    assert [len(room.splits[split]) for split in ("train", "valid", "test")] == [12, 9, 9]
    assert f"room {index} of seed 1000" in room.source
    assert room.licence == "Apache-2.0"
    load_room(room.name)
    assert made_up == [(1000, index)]
    assert capsys.readouterr().err.count("\n") == 1
    (folder,) = (tmp_path / "cache" / "simulated").iterdir()
    assert json.loads((folder / "room.json").read_text())["plan"] == drawn.plan


def test_it_sounds_as_what_is_drawn(tmp_path):
    """Without a stand-in for the simulation: direct sound at distance / 343 m/s, nothing before."""
    room = load_room(simulated.make_simulated("simulated/1000-5", tmp_path))
    distance = np.linalg.norm(room.positions - room.receiver, axis=1)
    arrival = np.round(distance / 343 * 22_050).astype(int)
    near = np.abs(np.take_along_axis(room.rirs, arrival[:, None] + np.arange(-3, 4), axis=1))
    assert np.median(np.abs(np.abs(room.rirs).argmax(axis=1) - arrival)) <= 1
    before = [np.abs(rir[: max(0, start - 45)]).max(initial=0) for rir, start in zip(room.rirs, arrival, strict=True)]
    assert max(before) < 0.01 * near.max(axis=1).min()


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_one_is_made_again(file, made_up):
    damaged = simulated.make_simulated("simulated/7-0") / file
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    simulated.make_simulated("simulated/7-0")
    assert damaged.read_bytes() == whole
    assert len(made_up) == 2


@pytest.mark.parametrize(
    "name", ["simulated", "simulated/7", "simulated/07-1", "simulated/7--1", "simulated/7-1-2", "a/7-1"]
)
def test_other_names(name, made_up):
    assert not simulated.is_simulated_name(name)
    with pytest.raises(InputError, match=f"{name}: no such room; must be simulated/SEED-INDEX"):
        simulated.make_simulated(name)
    with pytest.raises(InputError, match=f"{name}: no such room folder, .* such as simulated/1000-0"):
        load_room(name)
    assert not made_up
