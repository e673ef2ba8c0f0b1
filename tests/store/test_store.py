import json
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from haa_peft import RoomPredictor, load_room
from haa_peft.adapters.methods import MethodSettings, attach
from haa_peft.cli import main
from haa_peft.commands.stored import read_card
from haa_peft.errors import InputError
from haa_peft.model.checkpoint import fingerprint
from haa_peft.model.xrir import XRIR
from haa_peft.store import folder as folder_module
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_pack, write_pack
from haa_peft.store.names import AdapterName, iterate_names, store_folder
from haa_peft.store.pack import RoomPack
from haa_peft.store.parts import ADAPTER, CARD, CONFIG, REFERENCES, sha256
from tests.conftest import TINY

NAME = AdapterName("studio", "base")


def make_pack(room, backbone, name=NAME, shift=0.01, method="lora"):
    adapter = attach(backbone, MethodSettings(method), seed=0)
    config, tensors = adapter.config(), {key: tensor + shift for key, tensor in adapter.tensors().items()}
    adapter.detach()
    card = {
        "backbone": {"origin": backbone.origin, "fingerprint": fingerprint(backbone)},
        "method": {"method": method},
        "training": {
            "k": 4,
            "lr": None,
            "seed": 0,
            "steps": 1,
            "best_step": 1,
            "seconds": 0.1,
            "trainable_parameters": 1,
            "adapter_bytes": 1,
        },
        "room": {"fingerprint": room.fingerprint, "name": room.name, "source": "made", "licence": "none", "shots": 12},
    }
    return RoomPack.of_room(name, room, config, tensors, card)


@pytest.fixture
def room(room_folder):
    return load_room(room_folder)


@pytest.fixture
def store(room, tiny_backbone, tmp_path):
    folder = tmp_path / "store"
    write_pack(folder, make_pack(room, tiny_backbone))
    return folder


def rewrite(store, file, content, *, update_card=True):
    """Put other content in a pack's file, with a card that vouches for it or not."""
    entry = NAME.folder(store)
    (entry / file).write_bytes(content)
    if update_card:
        card = json.loads((entry / CARD).read_text())
        card["files"][file] = sha256(content)
        card["digest"] = card_digest(card)
        (entry / CARD).write_text(json.dumps(card))


def test_a_pack_comes_back_as_it_was(room, store, tiny_backbone):
    pack, wanted = read_pack(store, NAME), make_pack(room, tiny_backbone)
    assert all(torch.equal(pack.tensors[key], tensor) for key, tensor in wanted.tensors.items())
    assert pack.config == wanted.config
    np.testing.assert_array_equal(pack.rirs, room.rirs[room.splits["train"]])
    np.testing.assert_array_equal(pack.positions, room.positions[room.splits["train"]])
    np.testing.assert_array_equal(pack.geometry.points, room.geometry.points)
    assert pack.scale == room.scale
    assert sorted(path.name for path in NAME.folder(store).iterdir()) == sorted(
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "references.safetensors",
            "room.json",
            "card.json",
            "README.md",
        ]
    )
    with (NAME.folder(store) / ADAPTER).open("rb") as file:  # self-describing: the config is in the header too
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert json.loads(header["__metadata__"]["adapter_config"]) == pack.config


def test_a_pack_of_a_room_without_planes(room_folder, tiny_backbone, tmp_path):
    room = load_room(room_folder, "none")
    store = tmp_path / "store"
    write_pack(store, make_pack(room, tiny_backbone))
    pack = read_pack(store, NAME)
    np.testing.assert_array_equal(pack.geometry.depth, room.geometry.depth)
    assert (pack.geometry.source, pack.geometry.notes) == (room.geometry.source, room.geometry.notes)
    assert not np.isfinite(pack.geometry.bounds()).any()
    assert pack.digest() == make_pack(room, tiny_backbone).digest()
    assert pack.digest() != make_pack(load_room(room_folder), tiny_backbone).digest()
    np.testing.assert_array_equal(pack.as_room().panorama, room.panorama)
    with torch.no_grad():
        predicted = RoomPredictor.load(str(NAME), store=store, backbone=tiny_backbone).predict(room.positions[:2])
    assert np.isfinite(predicted).all()
    tensors = load((NAME.folder(store) / REFERENCES).read_bytes())
    rewrite(store, REFERENCES, save({**tensors, "depth": -tensors["depth"]}))
    with pytest.raises(InputError, match=r"room.json: depth is \(256, 512\) but must be \(256, 512\) positive metres"):
        read_pack(store, NAME)
    rewrite(store, REFERENCES, save({key: tensor for key, tensor in tensors.items() if key != "depth"}))
    with pytest.raises(InputError, match="room.json cannot be read"):
        read_pack(store, NAME)


@pytest.mark.parametrize(
    "name",
    ["../studio/base", "studio/../base", "..", "studio", "/studio/base", "studio/base/x", "studio/", "a.b/c",
     "studio/base@", "studio\\base/x", "studio/base\n", "", "~/x", "studio/.base"],
)  # fmt: skip
def test_names_that_are_paths(name, store):
    with pytest.raises(InputError, match="must be room/configuration"):
        AdapterName.parse(name)
    with pytest.raises(InputError, match="must be room/configuration"):
        RoomPredictor.load(name, store=store)


def test_names(store, monkeypatch):
    name = AdapterName.parse("hallway/panel1@bias")
    assert (name.room, name.configuration, name.variant, str(name)) == (
        "hallway",
        "panel1",
        "bias",
        "hallway/panel1@bias",
    )
    assert str(name.folder(store).relative_to(store)) == str(Path("hallway", "panel1@bias"))
    assert list(iterate_names(store)) == [NAME]
    monkeypatch.setenv("HAA_PEFT_STORE", "elsewhere")
    assert (str(store_folder()), str(store_folder("here"))) == ("elsewhere", "here")


def test_an_unknown_name_lists_what_there_is(store):
    with pytest.raises(InputError, match=r"no adapter studio/panel in store .*; it holds: studio/base"):
        read_pack(store, AdapterName("studio", "panel"))
    with pytest.raises(InputError, match="is no folder"):
        list(iterate_names(store / "nowhere"))


def test_what_concerns_one_room_looks_at_no_other(store, room, tiny_backbone, monkeypatch):
    """Of a thousand rooms; a list of names goes on as it is read, in the order of the names."""
    rooms = [f"room-{number:03}" for number in range(1000)]
    for name in rooms:
        (store / name / "base").mkdir(parents=True)
        (store / f"{name}b" / "base").mkdir(parents=True)
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(Path(path).name) or scandir(path))
    assert list(iterate_names(store, "studio")) == [NAME]
    assert looked == ["studio"]
    looked.clear()
    every = iterate_names(store)
    assert str(next(every)) == "room-000/base"
    assert looked == [store.name, "room-000"]
    assert str(next(every)) == "room-000b/base"
    names = [str(name) for name in every]
    assert len(names) == 2000 - 2 + 1
    assert names == sorted(names)
    looked.clear()
    with pytest.raises(InputError, match=r"no adapter studio/panel in store .*; it holds: .*, and more"):
        read_pack(store, AdapterName("studio", "panel"))
    assert len(looked) <= 10
    looked.clear()
    read_pack(store, NAME)
    predictor = RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)
    predictor.switch("studio/base")
    assert not looked


def test_the_list_reads_cards(store, room, tiny_backbone, capsys):
    write_pack(store, make_pack(room, tiny_backbone, AdapterName("garage", "base")))
    main(["adapters", "list", "garage", "--store", str(store)])
    said = capsys.readouterr().out
    assert "| garage/base " in said
    assert "studio" not in said
    (NAME.folder(store) / REFERENCES).write_bytes(b"")
    assert read_card(store, NAME)["name"] == "studio/base"
    (NAME.folder(store) / REFERENCES).unlink()
    with pytest.raises(InputError, match="references.safetensors is missing"):
        read_card(store, NAME)
    for room_name, message in (("nowhere", "has no adapters of a room nowhere"), ("../x", "adapter name")):
        with pytest.raises(SystemExit):
            main(["adapters", "list", room_name, "--store", str(store)])
        assert message in capsys.readouterr().err


def test_another_backbone_is_refused_and_the_right_one_named(store):
    torch.manual_seed(1)
    other = XRIR(TINY).eval().requires_grad_(False)
    other.origin = "other.safetensors"
    with pytest.raises(
        InputError, match=r"made for the backbone 'untrained' \(fingerprint \w{16}\), not for 'other.saf"
    ):
        RoomPredictor.load("studio/base", store=store, backbone=other)


def test_truncated_file(store, tiny_backbone):
    content = (NAME.folder(store) / ADAPTER).read_bytes()[:-100]
    rewrite(store, ADAPTER, content, update_card=False)
    with pytest.raises(InputError, match="adapter_model.safetensors is not the file that its card describes"):
        read_pack(store, NAME)
    rewrite(store, ADAPTER, content)
    with pytest.raises(InputError, match="adapter_model.safetensors cannot be read"):
        read_pack(store, NAME)


@pytest.mark.parametrize("fault", ["nan", "missing", "unexpected"])
def test_wrong_tensors(fault, store, tiny_backbone):
    tensors = load((NAME.folder(store) / ADAPTER).read_bytes())
    first = next(iter(tensors))
    if fault == "nan":
        tensors[first][0, 0] = float("nan")
    elif fault == "missing":
        del tensors[first]
    else:
        tensors["more"] = torch.zeros(1)
    rewrite(store, ADAPTER, save(tensors))
    with pytest.raises(InputError, match=r"^studio/base: adapter tensor .* NaN|^studio/base: the adapter does not fit"):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CONFIG, b"{", "adapter_config.json cannot be read"),
        (CONFIG, b'{"peft_type": "LORA"}', "adapter_config.json: r None"),
        (CONFIG, b'{"method": "prefix"}', "peft_type is None but must be LORA"),
        ("room.json", b"[]", "room.json cannot be read"),
        (REFERENCES, save({"rirs": torch.zeros(2, 100), "positions": torch.zeros(2, 3).double()}), "must be .R, 9600."),
        (CONFIG, b'{"peft_type": "LORA", "r": 1000000000, "lora_alpha": 8, "target_modules": []}', "r 1000000000"),
        (CONFIG, b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN, "target_modules": []}', "lora_alpha nan"),
        (CONFIG, b"[" * 100_000, "adapter_config.json cannot be read"),
        (ADAPTER, save({"x": torch.zeros(2, dtype=torch.int64)}), "is of torch.int64"),
        (
            REFERENCES,
            save({"rirs": torch.full((1, 9600), torch.nan), "positions": torch.zeros(1, 3).double()}),
            "not finite",
        ),
    ],
)
def test_damaged_files(file, content, message, store, tiny_backbone):
    rewrite(store, file, content)
    with pytest.raises(InputError, match=message):
        RoomPredictor.load("studio/base", store=store, backbone=tiny_backbone)


@pytest.mark.parametrize(
    ("card", "message"),
    [("{", "card.json cannot be read"), ('{"schema": 0}', "has schema 0 but must have 2"),
     ('{"schema": 99}', r"made by a newer haa-peft \(schema 99, this one reads 2\); update it"),
     ('{"schema": 1}', "is of None or incomplete"),
     ('{"schema": 2, "name": "studio/other"}', "is of 'studio/other'"),
     ('{"schema": 2, "name": "studio/base", "files": {}, "backbone": {"origin": "x", "fingerprint": "y"}, "method": {},'
      ' "training": {"k": "eight"}, "room": {}}', "no valid method.method"),
     (r'{"schema": 2, "name": "\ud800"}', "surrogates not allowed")],
)  # fmt: skip
def test_wrong_cards(card, message, store):
    if "method" in card:
        card = json.dumps({**json.loads(card), "digest": card_digest(json.loads(card))})
    (NAME.folder(store) / CARD).write_text(card)
    with pytest.raises(InputError, match=message):
        read_pack(store, NAME)


@pytest.mark.parametrize("borrowed", ["3", -1, 1000, True])
def test_a_card_that_borrows_what_is_not_there(borrowed, store):
    card = json.loads((NAME.folder(store) / CARD).read_text())
    card["room"]["borrowed"] = borrowed
    card["digest"] = card_digest(card)
    (NAME.folder(store) / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"no valid room\.borrowed; restore or retrain"):
        read_pack(store, NAME)


def test_pickle_is_never_read(store, tiny_backbone):
    entry = NAME.folder(store)
    torch.save({"x": torch.zeros(1)}, entry / "adapter_model.bin")
    (entry / ADAPTER).unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors is missing"):
        read_pack(store, NAME)


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["first file", "last file", "rename"])
def test_a_full_disk_leaves_the_old_adapter(stage, store, room, tiny_backbone, monkeypatch):
    before = read_pack(store, NAME)
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == (1 if stage == "first file" else 6):
            full_disk()
        real(handle)

    if stage == "rename":
        monkeypatch.setattr(folder_module, "_swap", full_disk)
    else:
        monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"No space left on device.; the old adapter is unchanged"):
        write_pack(store, make_pack(room, tiny_backbone, shift=1.0))
    after = read_pack(store, NAME)
    assert all(torch.equal(after.tensors[key], tensor) for key, tensor in before.tensors.items())
    assert [path.name for path in (store / "studio").iterdir()] == ["base"]  # nothing is left behind


def test_values_that_are_not_finite_are_not_stored(store, room, tiny_backbone):
    with pytest.raises(InputError, match="is not finite; nothing is stored"):
        write_pack(store, make_pack(room, tiny_backbone, shift=float("nan")))
    read_pack(store, NAME)


def write_and_die(store, pack):
    """A process that is killed between the two renames of a replacement."""
    real = Path.rename

    def rename(self, target):
        if self.name.startswith(".base.new-"):
            os._exit(9)
        return real(self, target)

    Path.rename = rename
    write_pack(store, pack)


def test_a_kill_while_replacing_leaves_the_old_adapter(store, room, tiny_backbone):
    before = read_pack(store, NAME)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=write_and_die, args=(store, make_pack(room, tiny_backbone, shift=1.0)))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not NAME.folder(store).exists()
    after = read_pack(store, NAME)
    assert all(torch.equal(after.tensors[key], tensor) for key, tensor in before.tensors.items())
    write_pack(store, make_pack(room, tiny_backbone, shift=1.0))  # the next save clears up
    assert not [path for path in (store / "studio").iterdir() if "previous" in path.name]


def test_replaced_while_being_read(store, room, tiny_backbone):
    packs = [make_pack(room, tiny_backbone, shift=shift) for shift in (0.5, 1.0)]
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for pack in packs:
                write_pack(store, pack)

    allowed = [pack.tensors for pack in (*packs, read_pack(store, NAME))]
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(40):
            tensors = read_pack(store, NAME).tensors
            assert any(all(torch.equal(tensors[key], known[key]) for key in known) for known in allowed)
    finally:
        stop.set()
        writer.join()


def test_two_writers_end_well(store, room, tiny_backbone):
    packs = [make_pack(room, tiny_backbone, shift=shift) for shift in (0.5, 1.0)]
    failures = []

    def write(pack):
        try:
            for _ in range(10):
                write_pack(store, pack)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(pack,)) for pack in packs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    read_pack(store, NAME)
    assert [path.name for path in (store / "studio").iterdir()] == ["base"]


def test_a_store_that_cannot_be_written(room, tiny_backbone, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_pack(tmp_path / "file", make_pack(room, tiny_backbone))
