"""Pushing to and pulling from a Hub, against a local server that answers as the real one does."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from haa_peft import RoomPredictor, load_room
from haa_peft.cli import main
from haa_peft.commands.stored import verify_pack
from haa_peft.errors import InputError
from haa_peft.hub.address import Address
from haa_peft.hub.pull import list_adapters, pull
from haa_peft.hub.push import push
from haa_peft.model.checkpoint import load_backbone
from haa_peft.store.card import card_digest
from haa_peft.store.folder import read_files, read_pack, write_pack
from haa_peft.store.names import AdapterName, iterate_names
from haa_peft.store.parts import ADAPTER, CARD, LEVELS, REFERENCES
from tests.hub.server import Hub, Repository
from tests.store.test_store import make_pack

constants = pytest.importorskip("huggingface_hub.constants")
import huggingface_hub  # noqa: E402

ROOT = Path(__file__).parents[2]
STORE = ROOT / "adapters"
BASE, PANEL = AdapterName("classroom-twin", "base"), AdapterName("classroom-twin", "panel")
ROOMS = Address("user/rooms")
NOBODY, RESOLVE = "http://127.0.0.1:9", "/{repo_id}/resolve/{revision}/{filename}"
PLACE = [[3.0, 2.0, 1.3]]


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's tries
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def owner(server, monkeypatch):
    """The server, for somebody with a token."""
    monkeypatch.setenv("HF_TOKEN", server.token)
    return server


@pytest.fixture
def rooms(server):
    """The server with two adapters in ``user/rooms``."""
    repository = Repository()
    repository.commit("main", {f"{name}/{path.name}": path.read_bytes()
                               for name in (BASE, PANEL) for path in name.folder(STORE).iterdir()})  # fmt: skip
    server.repositories["user/rooms"] = repository
    return server


def pushed(names, address=ROOMS, store=STORE, **more):
    return [commit.url for commit in push(store, names, address, **more)]


def pulled(address, store, **more):
    """What became of each adapter; the first problem is raised."""
    outcomes = {}
    for name, outcome, problem in pull(address, store, **more):
        if problem is not None:
            raise problem
        outcomes[str(name)] = outcome
    return outcomes


def fails(action, *arguments):
    """The one line that the failure says."""
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(folder):
    """Files that are no whole download: neither in the store nor in the cache may any stay."""
    return [path for path in folder.rglob("*") if path.name.endswith((".incomplete", ".part")) or ".new-" in path.name]


def test_there_and_back_is_the_same_pack(owner, tmp_path):
    (url,) = pushed([BASE, PANEL])
    assert url == f"{owner.url}/user/rooms/commit/{owner.repositories['user/rooms'].branches['main']}"
    assert pulled(ROOMS, tmp_path / "store") == {str(BASE): "stored", str(PANEL): "stored"}
    for name in (BASE, PANEL):
        assert read_files(tmp_path / "store", name) == read_files(STORE, name)
    verify_pack(load_backbone("small"), read_pack(tmp_path / "store", BASE), tmp_path / "store")
    assert not leftovers(tmp_path)


def test_the_folders_are_the_stores(owner):
    pushed([BASE])
    files = owner.repositories["user/rooms"].files()
    there = {f"{BASE}/{path.name}" for path in BASE.folder(STORE).iterdir()}
    assert set(files) == there | {"README.md", ".gitattributes"}
    assert files[f"{BASE}/{REFERENCES}"] == (BASE.folder(STORE) / REFERENCES).read_bytes()


def test_pushing_again_sends_nothing(owner):
    pushed([BASE])
    before, asked = dict(owner.repositories["user/rooms"].branches), len(owner.asked)
    pushed([BASE])
    assert owner.repositories["user/rooms"].branches == before
    assert not [path for method, path, _ in owner.asked[asked:] if method == "PUT"]


def test_files_that_a_pack_no_longer_has_go(owner, tmp_path):
    pushed([BASE])
    shutil.copytree(BASE.folder(STORE), BASE.folder(tmp_path))
    card = json.loads((BASE.folder(tmp_path) / CARD).read_text())
    del card["files"][LEVELS]
    (BASE.folder(tmp_path) / LEVELS).unlink()
    card["digest"] = card_digest(card)
    (BASE.folder(tmp_path) / CARD).write_text(json.dumps(card))
    pushed([BASE], store=tmp_path)
    assert f"{BASE}/{LEVELS}" not in owner.repositories["user/rooms"].files()
    assert read_files(STORE, BASE) != read_files(tmp_path, BASE)


def test_a_damaged_adapter_is_not_pushed(owner, tmp_path):
    shutil.copytree(BASE.folder(STORE), BASE.folder(tmp_path))
    (BASE.folder(tmp_path) / ADAPTER).write_bytes(b"no tensors")
    assert "not the file that its card describes" in fails(pushed, [BASE], ROOMS, tmp_path)
    assert not owner.repositories


def test_predicts_from_the_hub_what_the_store_predicts(rooms, monkeypatch):
    predictor = RoomPredictor.load(f"hf://user/rooms/{BASE}")
    here = RoomPredictor.load(str(BASE), store=STORE)
    np.testing.assert_array_equal(predictor.predict(PLACE), here.predict(PLACE))
    assert predictor.name == str(BASE)
    same = RoomPredictor.load(str(BASE), store="hf://user/rooms")
    np.testing.assert_array_equal(same.predict(PLACE), here.predict(PLACE))
    predictor.switch(str(PANEL))  # in the same repository
    here.switch(str(PANEL))
    np.testing.assert_array_equal(predictor.predict(PLACE), here.predict(PLACE))
    here.switch(f"hf://user/rooms/{BASE}")
    assert here.name == str(BASE)
    here.switch(str(PANEL))  # in its own store
    both = here.predict_many([(f"hf://user/rooms/{PANEL}", PLACE), (str(PANEL), PLACE)])
    np.testing.assert_allclose(*both, atol=1e-5 * np.abs(both[0]).max())  # rows of one batch
    asked = len(rooms.asked)
    predictor.switch(str(BASE))  # from memory
    assert len(rooms.asked) == asked


def test_a_predictor_stays_at_its_commit(rooms):
    predictor = RoomPredictor.load(f"hf://user/rooms/{BASE}")
    repository = rooms.repositories["user/rooms"]
    repository.commit("main", {".gitattributes": b""})
    predictor.switch(str(PANEL))
    assert predictor.name == str(PANEL)
    assert "the repository has no such adapter" in fails(RoomPredictor.load, f"hf://user/rooms/{PANEL}")


def test_what_an_adapter_lies_on_comes_along(owner, room_folder, tiny_backbone, tmp_path):
    room, store, panel = load_room(room_folder), tmp_path / "mine", AdapterName("studio", "panel")
    below = make_pack(room, tiny_backbone)
    write_pack(store, below)
    pack = make_pack(room, tiny_backbone, panel, shift=0.02)
    pack.card["parent"] = {"name": str(below.name), "digest": below.adapter_digest()}
    write_pack(store, pack)
    pushed([panel], store=store)
    assert list_adapters(ROOMS) == [below.name, panel]
    predictors = [RoomPredictor.load(str(panel), store=store, backbone=tiny_backbone),
                  RoomPredictor.load(f"hf://user/rooms/{panel}", backbone=tiny_backbone)]  # fmt: skip
    np.testing.assert_array_equal(*(predictor.predict([[1.0, 1.0, 1.0]]) for predictor in predictors))
    assert list(pulled(ROOMS.of(panel), tmp_path / "theirs")) == [str(below.name), str(panel)]


def test_revisions(rooms, tmp_path):
    repository = rooms.repositories["user/rooms"]
    old = repository.branches["main"]
    repository.branches["may/test"] = old
    repository.commit("main", {".gitattributes": b""})
    assert "holds no adapters" in fails(list_adapters, ROOMS)
    for revision in (old, "may/test"):
        assert list_adapters(ROOMS.at(revision)) == [BASE, PANEL]
    address = Address.parse(f"hf://user/rooms@may%2Ftest/{BASE}")
    assert pulled(address, tmp_path) == {str(BASE): "stored"}
    assert str(address) == f"hf://user/rooms@may%2Ftest/{BASE}"
    assert "there is no revision 'june'" in fails(pulled, ROOMS.at("june"), tmp_path)
    assert "there is no revision 'june'" in fails(pulled, ROOMS.at("june").of(BASE), tmp_path)


def test_a_renamed_repository(rooms, tmp_path):
    rooms.renamed["user/old"] = "user/rooms"
    address = Address("user/old")
    assert pulled(address, tmp_path / "store") == {str(BASE): "stored", str(PANEL): "stored"}
    assert RoomPredictor.load(f"hf://user/old/{BASE}").name == str(BASE)


def test_a_branch_is_made(owner):
    pushed([BASE])
    pushed([PANEL], ROOMS.at("trial"))
    assert list_adapters(ROOMS) == [BASE]
    assert list_adapters(ROOMS.at("trial")) == [BASE, PANEL]


def test_cached_and_offline(rooms, tmp_path, monkeypatch):
    address = f"hf://user/rooms/{BASE}"
    predicted = RoomPredictor.load(address).predict(PLACE)
    asked = len(rooms.asked)
    RoomPredictor.load(address)
    assert [method for method, _, _ in rooms.asked[asked:]] == ["HEAD"]  # whether there is a newer card
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(RoomPredictor.load(address).predict(PLACE), predicted)
    assert pulled(ROOMS.of(BASE), tmp_path / "store") == {str(BASE): "stored"}
    for line in (fails(RoomPredictor.load, f"hf://user/rooms/{PANEL}"), fails(pulled, ROOMS, tmp_path / "store")):
        assert "HF_HUB_OFFLINE is set" in line


def test_no_server(rooms, tmp_path, monkeypatch):
    address = f"hf://user/rooms/{BASE}"
    RoomPredictor.load(address)
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOBODY + RESOLVE)
    RoomPredictor.load(address)
    for line in (fails(RoomPredictor.load, f"hf://user/rooms/{PANEL}"), fails(pulled, ROOMS, tmp_path / "store")):
        assert re.search(f"{NOBODY} (cannot be reached|fails)", line)
        assert "check the network" in line


def test_private(owner, tmp_path, monkeypatch):
    pushed([BASE], private=True)
    assert owner.repositories["user/rooms"].private
    assert pulled(ROOMS.of(BASE), tmp_path / "mine") == {str(BASE): "stored"}
    assert not owner.leaked  # where large files are, on another host, the token is not sent
    shutil.rmtree(tmp_path / "cache")
    for token in ("", "hf_other"):
        monkeypatch.setenv("HF_TOKEN", token)
        for address in (ROOMS, ROOMS.of(BASE)):
            line = fails(pulled, address, tmp_path / "theirs")
            assert "private and not yours; check the name, or log in with `hf auth login` or set HF_TOKEN" in line
    assert not (tmp_path / "theirs").exists()


def test_a_gated_repository(rooms, tmp_path):
    rooms.repositories["user/rooms"].gated = True
    assert "access is granted on request only" in fails(pulled, ROOMS.of(BASE), tmp_path)


def test_only_who_may_pushes(rooms, monkeypatch):
    before = dict(rooms.repositories["user/rooms"].branches)
    for token in ("", "hf_other"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert "log in with `hf auth login` or set HF_TOKEN" in fails(pushed, [BASE])
    assert rooms.repositories["user/rooms"].branches == before


def test_nothing_private_goes_to_a_public_repository(owner):
    pushed([BASE])
    before = dict(owner.repositories["user/rooms"].branches)
    with pytest.raises(InputError, match="user/rooms is there already and public"):
        pushed([PANEL], private=True)
    assert owner.repositories["user/rooms"].branches == before


# what goes wrong on the way


@pytest.mark.parametrize("troubles", [["break"], [503], ["wrong"], [None, "wrong"], [None, "break"]])
def test_one_failure_is_made_up_for(rooms, tmp_path, troubles):
    rooms.troubles = troubles
    try:
        outcome = pulled(ROOMS.of(BASE), tmp_path / "store")
    except InputError:
        assert not list(iterate_names(tmp_path / "store")) if (tmp_path / "store").exists() else True
        outcome = pulled(ROOMS.of(BASE), tmp_path / "store")
    assert outcome == {str(BASE): "stored"}
    assert read_files(tmp_path / "store", BASE) == read_files(STORE, BASE)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        ("wrong", "is not the file that its card describes; have it pushed again, or take another revision"),
        ("break", "fails (RemoteProtocolError); check the network"),
        ("long", "goes on after the 128496 bytes that were announced"),
        ("endless", "goes on after the 128496 bytes that were announced"),
        (503, "the Hub answers with status 503"),
        (403, "the Hub refuses this (status 403); log in with"),
        (404, "the Hub answers with status 404"),
    ],
)
def test_nothing_half_is_left(rooms, tmp_path, trouble, line):
    """All but the card fails; then a pull goes on with what is missing."""
    rooms.troubles = [None] + [trouble] * 30
    assert line in fails(pulled, ROOMS.of(BASE), tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert not leftovers(tmp_path)
    kept = [path for path in (tmp_path / "cache").rglob(f"{BASE}/*") if path.exists()]
    assert [path.name for path in kept] == [CARD]
    rooms.troubles, rooms.asked = [], []
    assert pulled(ROOMS.of(BASE), tmp_path / "store") == {str(BASE): "stored"}
    assert not [path for path in rooms.downloads() if path.endswith(CARD)]
    assert len(rooms.downloads()) == len(read_files(STORE, BASE)) - 1


def test_what_was_there_stays_when_a_pull_fails(rooms, tmp_path):
    shutil.copytree(BASE.folder(STORE), BASE.folder(tmp_path / "store"))
    rooms.troubles = [None, *["wrong"] * 30]
    fails(lambda: pulled(ROOMS.of(BASE), tmp_path / "store", replace=True))
    assert read_files(tmp_path / "store", BASE) == read_files(STORE, BASE)
    assert len(list(BASE.folder(tmp_path / "store").parent.iterdir())) == 1


def test_a_card_that_lies_is_refused(rooms, tmp_path):
    repository = rooms.repositories["user/rooms"]
    files = dict(repository.files())
    files[f"{BASE}/{CARD}"] = files[f"{BASE}/{CARD}"].replace(b'"k": 8', b'"k": 4', 1)
    repository.commit("main", files)
    assert "card.json is not what its digest says" in fails(RoomPredictor.load, f"hf://user/rooms/{BASE}")
    files[f"{BASE}/{CARD}"] = files[f"{PANEL}/{CARD}"]
    repository.commit("main", files)
    outcomes = {str(name): str(problem) for name, _, problem in pull(ROOMS, tmp_path / "store")}
    assert "card.json is of 'classroom-twin/panel'" in outcomes[str(BASE)]
    assert outcomes[str(PANEL)] == "None"  # one bad pack does not keep the others away
    assert list(iterate_names(tmp_path / "store")) == [PANEL]


def test_a_large_file_is_not_begun(rooms, tmp_path):
    repository = rooms.repositories["user/rooms"]
    repository.commit("main", {**repository.files(), f"{BASE}/{CARD}": bytes(2**20 + 1)})
    line = fails(pulled, ROOMS.of(BASE), tmp_path / "store")
    assert "card.json has 1048577 bytes but at most 1048576 are read" in line


def test_a_card_with_wrong_fields_is_refused(rooms, tmp_path):
    repository = rooms.repositories["user/rooms"]
    card = json.loads(repository.files()[f"{BASE}/{CARD}"])
    card["evaluation"] = {"rows": 3}
    card["digest"] = card_digest(card)
    repository.commit("main", {**repository.files(), f"{BASE}/{CARD}": json.dumps(card).encode()})
    assert "classroom-twin/base: card.json cannot be read" in next(pull(ROOMS.of(BASE), tmp_path)).problem.args[0]


@pytest.mark.parametrize("place", ["cache", "store"])
def test_no_space(rooms, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if place == "cache":
        monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    else:
        monkeypatch.setattr("haa_peft.store.folder.os.fsync", full)
    line = fails(pulled, ROOMS.of(BASE), tmp_path / "store")
    assert "cannot be written (No space left on device)" in line
    assert not leftovers(tmp_path)
    assert not (tmp_path / "store").exists() or not list(iterate_names(tmp_path / "store"))


@pytest.mark.parametrize("troubles", [[500] * 30, [None] + [500] * 30])
def test_an_interrupted_push_changes_nothing_and_goes_on(owner, troubles):
    owner.upload_troubles = list(troubles)
    assert "the Hub answers with status 500" in fails(pushed, [BASE])
    assert list(owner.repositories["user/rooms"].files()) == [".gitattributes"]
    sent, owner.upload_troubles, owner.asked = len(owner.blobs), [], []
    pushed([BASE])
    assert list_adapters(ROOMS) == [BASE]
    assert len([path for method, path, _ in owner.asked if method == "PUT"]) == len(owner.blobs) - sent


def test_a_push_beside_another_one(owner, monkeypatch):
    pushed([BASE])
    repository = owner.repositories["user/rooms"]
    get_paths_info = huggingface_hub.HfApi.get_paths_info

    def meanwhile(*arguments, **more):
        repository.commit("main", {**repository.files(), "notes.md": b"notes"})
        return get_paths_info(*arguments, **more)

    monkeypatch.setattr(huggingface_hub.HfApi, "get_paths_info", meanwhile)
    assert "somebody else has pushed meanwhile; run the same command again" in fails(pushed, [PANEL])
    monkeypatch.undo()


# stores and what is in them


def test_what_differs_is_replaced_only_when_asked(rooms, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(BASE.folder(STORE), BASE.folder(store))
    assert pulled(ROOMS, store) == {str(BASE): "already there", str(PANEL): "stored"}
    shutil.rmtree(PANEL.folder(store))
    PANEL.folder(store).mkdir()
    (problem,) = [problem for _, _, problem in pull(ROOMS, store) if problem]
    assert "another adapter of this name is in store" in str(problem)
    assert pulled(ROOMS, store, replace=True)[str(PANEL)] == "stored"


def test_many_rooms_in_several_pages_and_commits(owner, tmp_path, monkeypatch):
    monkeypatch.setattr("haa_peft.hub.push.AT_ONCE", 3)
    names = list(iterate_names(STORE))
    urls = pushed(names)
    assert len(urls) == -(-len(names) // 3)
    assert list_adapters(ROOMS) == names
    readme = owner.repositories["user/rooms"].files()["README.md"].decode()
    assert all(f"[{name}]({name})" in readme for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "rooms",
        "hf://user",
        "user/rooms/base",
        "../rooms/a/b",
        "user/rooms@/a/b",
        "user/rooms/a/../b",
        "hf:///a/b",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="must be"):
        Address.parse(text)


# the page


def read_page(server):
    text = server.repositories["user/rooms"].files()["README.md"].decode()
    return huggingface_hub.ModelCard(text)


def test_the_page_has_the_hubs_metadata(owner):
    pushed([BASE])
    data = read_page(owner).data
    card = read_pack(STORE, BASE, tensors=False).card
    assert (data.library_name, data.base_model, data.datasets) == ("peft", "small", ["classroom-twin"])
    assert (data.license, data.license_name) == ("apache-2.0", None)
    assert data.model_name == "rooms"
    (row,) = [row for row in card["evaluation"]["rows"] if row["predictor"] == str(BASE)]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"edt_ms": round(1000 * row["edt_s"], 1), "c50_db": round(row["c50_db"], 2),
                     "t60_percent": round(row["t60_percent"], 1)}  # fmt: skip
    assert {(result.dataset_config, result.dataset_split) for result in data.eval_results} == {(str(BASE), "test")}


def test_the_page_keeps_what_people_wrote(owner):
    pushed([BASE])
    repository = owner.repositories["user/rooms"]
    text = repository.files()["README.md"].decode()
    text = text.replace("base_model: small", "base_model: user/xrir-small\nthumbnail: room.png")
    text = text.replace("# user/rooms", "# The rooms of our building")
    repository.commit("main", {**repository.files(), "README.md": text.encode()})
    pushed([BASE, PANEL])
    page = read_page(owner)
    assert (page.data.base_model, page.data.thumbnail) == ("user/xrir-small", "room.png")
    assert "# The rooms of our building" in page.text
    assert len(page.data.eval_results) == 6
    assert page.text.count(f"[{BASE}]({BASE})") == page.text.count(f"[{PANEL}]({PANEL})") == 1


def test_a_page_of_other_people_stays(owner):
    owner.repositories["user/rooms"] = Repository()
    repository = owner.repositories["user/rooms"]
    repository.commit("main", {"README.md": b"---\nlicense: mit\n---\nOurs.\n"})
    pushed([BASE])
    page = read_page(owner)
    assert page.text.strip() == "Ours."
    assert (page.data.license, page.data.license_name) == ("other", "several, see each adapter")
    repository.commit("main", {"README.md": b"---\nmodel-index: [3]\n---\nOurs.\n"})
    assert "README.md has metadata that cannot be read" in fails(pushed, [BASE])


@pytest.mark.parametrize(
    ("licences", "said"),
    [
        (["CC BY 4.0"], ("cc-by-4.0", None)),
        (["CC BY-NC 4.0", "cc_by_nc_4.0"], ("cc-by-nc-4.0", None)),
        (["unknown"], ("unknown", None)),
        (["ask the owner"], ("other", "ask the owner")),
        (["CC BY 4.0", "unknown"], ("other", "several, see each adapter")),
    ],
)
def test_licences(licences, said):
    from haa_peft.hub.page import _add_licences

    data = huggingface_hub.ModelCardData()
    for licence in licences:
        _add_licences(data, [licence])
    assert (data.license, data.license_name) == said


def test_the_pages_snippet_runs(owner):
    pushed([BASE])
    (block,) = re.findall(r"```python\n(.*?)```", read_page(owner).text, re.DOTALL)
    after = {}
    exec(compile(block, "README.md", "exec"), after)
    assert after["rirs"].shape == (1, 9600)
    assert np.abs(after["rirs"]).max() > 0.01


# the command line


def test_commands(owner, tmp_path, capsys):
    main(["push", str(BASE), str(PANEL), "user/rooms", "--store", str(STORE)])
    printed = capsys.readouterr().out
    assert f"{BASE}: pushed, licence of the data Apache-2.0" in printed
    assert "/user/rooms/commit/" in printed
    main(["pull", "user/rooms", "--dry-run"])
    assert capsys.readouterr().out == f"{BASE}\n{PANEL}\n"
    main(["pull", "user/rooms", "--store", str(tmp_path / "store")])
    assert capsys.readouterr().out == f"{BASE}: stored\n{PANEL}: stored\n"
    main(["predict", f"hf://user/rooms/{BASE}", "--position", "3", "2", "1.3", "--out", str(tmp_path / "rir.wav")])
    assert "in classroom-twin/base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["push", "user/rooms"], "name adapters before the repository, or give --all without names"),
        (["push", "a/b", "user/rooms", "--all"], "name adapters before the repository, or give --all without names"),
        (["push", "a/b", "user/rooms/a/b"], "adapters lie there under their own names"),
        (["push", "a/b", "user/rooms"], "no adapter a/b in store"),
        (["pull", "user/none"], "there is no such repository, or it is private"),
        (["pull", "user"], "'user' must be user/repository"),
        (["predict", "hf://user/rooms", "--position", "1", "1", "1", "--out", "a.wav"], "names no adapter"),
    ],
)
def test_wrong_commands_end_with_one_line(owner, tmp_path, capsys, arguments, line):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--store", str(STORE)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert line in said


def test_a_bad_adapter_among_others_is_named(rooms, tmp_path, capsys):
    repository = rooms.repositories["user/rooms"]
    repository.commit("main", {**repository.files(), f"{BASE}/{ADAPTER}": b"other"})
    with pytest.raises(SystemExit) as ended:
        main(["pull", "user/rooms", "--store", str(tmp_path)])
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert printed.out.startswith(f"FAILED hf://user/rooms/{BASE}: {ADAPTER} is not the file")
    assert f"{PANEL}: stored\n" in printed.out
    assert printed.err == "error: 1 of 2 adapters are left out\n"


def test_in_a_process_of_its_own(owner, tmp_path):
    """With what people set: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    environment = {**os.environ, "HF_ENDPOINT": owner.url, "HF_HOME": str(tmp_path / "home"),
                   "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    haa_peft = [sys.executable, "-m", "haa_peft.cli"]

    def run(*arguments, **more):
        done = subprocess.run([*haa_peft, *arguments], env={**environment, **more}, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert run("push", str(BASE), "user/rooms", "--store", str(STORE), "--private")[0] == 0
    store = str(tmp_path / "store")
    assert run("pull", f"user/rooms/{BASE}", "--store", store)[:2] == (0, f"{BASE}: stored\n")
    again = run("pull", f"user/rooms/{BASE}", "--store", store, HF_HUB_OFFLINE="1", HF_TOKEN="")
    assert again == (0, f"{BASE}: already there\n", "")
    status, _, said = run("pull", "user/rooms", "--store", store, HF_TOKEN="hf_other")
    assert status == 2
    assert said.startswith("error: hf://user/rooms: there is no such repository, or it is private")
    assert said.count("\n") == 1


def test_a_killed_pull_goes_on(rooms, tmp_path):
    rooms.troubles = [None, None, "wait"]
    environment = {**os.environ, "HF_ENDPOINT": rooms.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = ["-m", "haa_peft.cli", "pull", f"user/rooms/{BASE}", "--store", str(tmp_path / "store")]
    with subprocess.Popen([sys.executable, *command], env=environment) as process:
        assert rooms.waits.wait(60)
        process.kill()
    rooms.go_on.set()
    assert not (tmp_path / "store").exists()
    rooms.asked = []
    assert pulled(ROOMS.of(BASE), tmp_path / "store") == {str(BASE): "stored"}
    assert len(rooms.downloads()) == len(read_files(STORE, BASE)) - 2  # but the card and the adapter


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None
from haa_peft.cli import main
from haa_peft.hub import Address, locate, pin, pull, push
print("imported", "torch" in sys.modules)
main(["pull", "user/rooms"])
"""


def test_without_huggingface_hub():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "imported False\n")
    wanted = 'needs the package huggingface_hub; pip install "haa-peft[hub]"'
    assert done.stderr == f"error: the Hugging Face Hub {wanted}\n"
