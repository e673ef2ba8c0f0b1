"""Packs that are damaged, mixed or absurd: refused in one line, or the answers of a sound one."""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.errors import LONGEST, InputError
from haa_peft.inference import loaded as loaded_module
from haa_peft.inference.packs import prepare_pack
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName
from haa_peft.store.pack_files import to_files
from haa_peft.store.parts import ADAPTER, CARD, CONFIG, LEVELS, PREPARED, REFERENCES, ROOM, sha256
from tests.faults.test_threads import LEVELS as SOME_LEVELS
from tests.store.test_store import make_pack

NAME, OTHER = AdapterName("studio", "base"), AdapterName("studio", "other")
FILES = (ADAPTER, CONFIG, REFERENCES, ROOM, PREPARED, LEVELS)
QUERY = np.array([[4.0, 2.0, 1.5]])
LONGEST_S = 2.0


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def store(room, tiny_backbone, tmp_path, tmp_path_factory):
    """Two packs with all that a pack may hold; the second is of other measurements and weights."""
    made = tmp_path_factory.getbasetemp() / "two-packs"
    if not made.exists():
        write_both(made, room, tiny_backbone)
    return shutil.copytree(made, tmp_path / "store")


def write_both(store, room, backbone):
    other = room.with_shots(6)
    for one, name, shift in ((room, NAME, 0.02), (other, OTHER, 0.04)):
        pack = make_pack(one, backbone, name, shift=shift)
        write_pack(store, prepare_pack(backbone, dataclasses.replace(pack, levels=SOME_LEVELS)))


def put(store, file, content, *, vouch):
    """Put a file into the first pack; with ``vouch`` its card says that file's hash (1), and its own digest too (2)."""
    entry = NAME.folder(store)
    (entry / file).write_bytes(content)
    card = json.loads((entry / CARD).read_text())
    card["files"][file] = sha256(content)
    if vouch > 1:
        card["digest"] = card_digest(card)
    if vouch:
        (entry / CARD).write_text(json.dumps(card))


def answer(store, backbone):
    return RoomPredictor.load(str(NAME), store=store, backbone=backbone).predict(QUERY)


def refusal(store, backbone):
    """How a pack is refused, in one line and in time."""
    start = time.monotonic()
    with pytest.raises(InputError) as refused:
        answer(store, backbone)
    line = str(refused.value)
    assert line.startswith(str(NAME))
    assert len(line) <= LONGEST
    assert line.isprintable()
    assert time.monotonic() - start < 10 * LONGEST_S  # on a busy machine
    return line


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("vouch", [0, 1])
def test_files_of_another_pack(file, vouch, store, tiny_backbone):
    content = (OTHER.folder(store) / file).read_bytes()
    if content == (NAME.folder(store) / file).read_bytes():
        content += b" "
    put(store, file, content, vouch=vouch)
    assert "digest" in refusal(store, tiny_backbone) if vouch else refusal(store, tiny_backbone)
    if vouch:  # the list reads cards alone
        with pytest.raises(SystemExit) as stopped:
            main(["adapters", "list", "--store", str(store)])
        assert stopped.value.code == 1


@pytest.mark.parametrize("file", [ADAPTER, REFERENCES, PREPARED, ROOM])
def test_mixing_shows_even_with_a_digest_made_again(file, store, tiny_backbone):
    """What was prepared belongs to one adapter, one geometry and one set of references."""
    put(store, file, (OTHER.folder(store) / file).read_bytes(), vouch=2)
    assert "is of another adapter" in refusal(store, tiny_backbone) or file == ROOM


REFERENCE_FAULTS = {
    "zero": lambda rirs: 0 * rirs,
    "permuted": lambda rirs: rirs.flip(0),
    "int8": lambda rirs: rirs.mul(100).to(torch.int8),
    "complex": lambda rirs: rirs.to(torch.complex64),
    "loud": lambda rirs: rirs * 1e30,
    "0-d": lambda rirs: rirs.max(),
    "flat": lambda rirs: rirs.flatten(),
    "half": lambda rirs: rirs.half(),
}


@pytest.mark.parametrize("fault", REFERENCE_FAULTS)
@pytest.mark.parametrize("vouch", [1, 2])
def test_references_that_lie(fault, vouch, store, tiny_backbone, tmp_path, capsys):
    from safetensors.torch import save_file

    tensors = load((NAME.folder(store) / REFERENCES).read_bytes())
    put(store, REFERENCES, save({**tensors, "rirs": REFERENCE_FAULTS[fault](tensors["rirs"]).contiguous()}),
        vouch=vouch)  # fmt: skip
    refusal(store, tiny_backbone)
    weights = tmp_path / "tiny.safetensors"
    save_file(tiny_backbone.state_dict(), weights,
              metadata={"xrir_config": json.dumps(dataclasses.asdict(tiny_backbone.config))})  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["adapters", "verify", "--store", str(store), "--backbone", str(weights)])
    assert stopped.value.code == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"FAILED {NAME}: ")
    assert out[1].startswith(f"{OTHER}: ok") or "made for the backbone" in out[1]


@pytest.mark.parametrize("change", [
    {"room": "garage"}, {"configuration": "panel"}, {"sample_rate": 48_000}, {"sample_rate": True}, {"scale": 0},
    {"scale": 1e30}, {"scale": "1"}, {"receiver_xyz": [2.0, 1.6, 1.2]}, {"receiver_xyz": [1e6, 0, 0]},
    {"receiver_xyz": []}, {"surfaces": []}, {"surfaces": None}, {"channels": "smells"},
    {"surfaces": [{"points": [[0, 0, 0], [1, 0, 0], [0, 1, 0]]}] * 3000},
], ids=lambda change: f"{change!r:.40}")  # fmt: skip
def test_rooms_that_lie(change, store, tiny_backbone):
    about = json.loads((NAME.folder(store) / ROOM).read_text())
    put(store, ROOM, json.dumps({**about, **change}).encode(), vouch=2)
    refusal(store, tiny_backbone)


@pytest.mark.parametrize("change", [
    {"method": []}, {"method": {"method": []}}, {"training": {"k": True}}, {"training": {"k": -1}}, {"parent": []},
    {"training": {"k": 10**30}}, {"training": {"adapter_bytes": 1e3}}, {"backbone": {"origin": "\ud800"}},
    {"training": {"acceptance": []}}, {"training": {"acceptance": {"start_loss": "x"}}}, {"room": {"borrowed": True}},
    {"name": "\n" * 5000}, {"levels": []},
], ids=lambda change: f"{change!a:.60}")  # fmt: skip
def test_cards_that_lie(change, store, tiny_backbone, capsys):
    card = json.loads((NAME.folder(store) / CARD).read_text())
    for key, value in change.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
    card["digest"] = card_digest(card)
    (NAME.folder(store) / CARD).write_text(json.dumps(card))
    code = 0
    try:
        main(["adapters", "list", "--store", str(store)])
    except SystemExit as stopped:
        code = stopped.code
    listed = capsys.readouterr().out
    if "levels" not in change:  # which are for people alone
        assert code == 1
    assert any(line.startswith(f"| {OTHER} ") and " lora |" in line for line in listed.splitlines())
    assert len(max(listed.splitlines(), key=len)) <= LONGEST


@pytest.mark.parametrize("value", [1e4, float("inf"), float("nan"), 2.0**127])
def test_absurd_weights(value, store, tiny_backbone):
    tensors = load((NAME.folder(store) / ADAPTER).read_bytes())
    next(iter(tensors.values())).view(-1)[3] = value
    put(store, ADAPTER, save(tensors), vouch=2)
    refusal(store, tiny_backbone)
    (NAME.folder(store) / PREPARED).unlink()
    card = json.loads((NAME.folder(store) / CARD).read_text())
    del card["files"][PREPARED]
    card["digest"] = card_digest(card)
    (NAME.folder(store) / CARD).write_text(json.dumps(card))
    assert "adapter tensor" in refusal(store, tiny_backbone)


def test_a_prediction_that_is_not_finite_is_an_error(store, tiny_backbone, monkeypatch):
    predictor = RoomPredictor.load(str(NAME), store=store, backbone=tiny_backbone)
    predict = type(predictor._networks).predict

    def broken(network, asked):
        found = predict(network, asked)
        found[-1, 3, 5] = float("nan")
        return found

    monkeypatch.setattr(type(predictor._networks), "predict", broken)
    positions = [[1.0, 1.0, 1.0], [4.0, 2.0, 1.5]]
    for ask in (predictor.predict, lambda xyz: predictor.predict_many([(str(NAME), xyz)])):
        with pytest.raises(InputError, match=r"studio/base: the prediction at \[4.0, 2.0, 1.5\] is not finite"):
            ask(positions)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("file", [*FILES, CARD])
def test_a_pipe_is_not_waited_for(file, store, tiny_backbone):
    path = NAME.folder(store) / file
    path.unlink()
    os.mkfifo(path)
    assert "is no plain file" in refusal(store, tiny_backbone)


@pytest.mark.parametrize("file", [*FILES, CARD])
def test_sizes_are_bounded_before_work_begins(file, store, tiny_backbone):
    with (NAME.folder(store) / file).open("r+b") as content:
        content.truncate(2**40)  # takes no space
    assert "bytes but at most" in refusal(store, tiny_backbone)


def test_what_could_not_be_read_again_is_not_stored(room, store, tiny_backbone):
    pack = read_pack(store, NAME)
    for change in ({"scale": 1e30}, {"rirs": 0 * pack.rirs}, {"positions": pack.positions * 1e6}):
        with pytest.raises(InputError, match="studio/base: "):
            write_pack(store, dataclasses.replace(pack, **change))
    assert read_pack(store, NAME).digest() == pack.digest()


def test_errors_stay_short_with_many_names(store):
    for i in range(500):
        (store / "studio" / f"configuration-with-a-long-name-{i}").mkdir()
    with pytest.raises(InputError, match=r"and more$") as refused:
        read_pack(store, AdapterName("studio", "nothing"))
    assert len(str(refused.value)) <= LONGEST


def test_the_same_pack_has_the_same_bytes(store, tiny_backbone):
    pack = read_pack(store, NAME)
    files = [to_files(pack) for _ in range(10)]
    assert all(one == files[0] for one in files)
    assert files[0] == {path.name: path.read_bytes() for path in NAME.folder(store).iterdir()}


def mutated(content, rng):
    """Bytes with one fault: flipped bits, a cut, zeros, a copied piece, or something put in."""
    data, at = bytearray(content), int(rng.integers(len(content)))
    kind, length = rng.integers(5), int(rng.integers(1, 64))
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 3:
        other = int(rng.integers(len(content)))
        data[at : at + length] = data[other : other + length]
    else:
        data[at:at] = rng.bytes(length)
    return bytes(data)


def answered(store, backbone):
    """The answer of a pack, or the line by which it is refused."""
    try:
        return answer(store, backbone), ""
    except InputError as error:
        return None, str(error)


def mutations(store, backbone, count, tmp_path):
    """Mutate one file at a time, vouched for or not; returns how many were refused and how many changed nothing."""
    rng, found = np.random.default_rng(11), {"refused": 0, "the same answer": 0, "answered otherwise": 0}
    sound = answer(store, backbone)
    for i in range(count):
        work = tmp_path / "mutated"
        shutil.copytree(store, work)
        file = (*FILES, CARD)[i % 7]
        path = NAME.folder(work) / file
        content = mutated(path.read_bytes(), rng)
        vouch = int(rng.integers(3))
        if file == CARD:
            path.write_bytes(content)
        else:
            put(work, file, content, vouch=vouch)
        given, line = answered(work, backbone)
        if given is None:
            assert line.startswith(str(NAME))
            assert len(line) <= LONGEST
            found["refused"] += 1
        else:
            assert np.isfinite(given).all()
            same = np.array_equal(given, sound)
            # whoever makes digests again writes a pack of his own
            assert same or vouch == 2, f"{file}, mutation {i}"
            found["the same answer" if same else "answered otherwise"] += 1
        shutil.rmtree(work)
    return found


def test_mutations(store, tiny_backbone, tmp_path):
    found = mutations(store, tiny_backbone, 70, tmp_path)
    assert found["refused"] > 50


@pytest.mark.long
def test_two_thousand_mutations(store, tiny_backbone, tmp_path):
    found = mutations(store, tiny_backbone, 2000, tmp_path)
    print(f"2000 mutations: {found}")
    assert found["refused"] > 1500


def test_one_bad_pack_does_not_break_a_batch_later(store, tiny_backbone, monkeypatch):
    """Whatever a damaged pack makes of its reader is an error with its name, and the predictor goes on."""
    predictor = RoomPredictor.load(str(OTHER), store=store, backbone=tiny_backbone)
    before = predictor.predict(QUERY)

    def fails(*_):
        raise KeyError("rirs")

    with monkeypatch.context() as patch:
        patch.setattr(loaded_module, "weights_of", fails)
        with pytest.raises(InputError, match=r"studio/base: cannot be used .KeyError: 'rirs'"):
            predictor.predict_many([(str(NAME), QUERY)])
    np.testing.assert_array_equal(predictor.predict(QUERY), before)
    assert Path(store).is_dir()


def test_whoever_writes_a_whole_new_pack_is_stopped_by_digests_alone(room, store, tiny_backbone):
    allowed = [read_pack(store, name).card["digest"] for name in (NAME, OTHER)]
    predictor = RoomPredictor.load(str(NAME), store=store, backbone=tiny_backbone, allowed=allowed)
    write_pack(store, make_pack(room, tiny_backbone, NAME, shift=0.5))
    predictor.switch(str(OTHER))
    with pytest.raises(InputError, match=r"studio/base: its digest \w{64} is not among those allowed"):
        predictor.switch(str(NAME))
    assert predictor.name == str(OTHER)
