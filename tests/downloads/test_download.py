"""Downloading HAA, against a local server that answers as the Zenodo record does."""

import errno
import hashlib
import io
import json
import re
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from haa_peft.downloads.haa import NEEDED, download_haa
from haa_peft.errors import InputError
from haa_peft.rooms.haa import haa_facts

RECORD = "/api/records/11195833"
RIRS = np.random.default_rng(0).normal(size=(72, 2000)).astype(np.float32)  # several chunks of the download
XYZS = np.arange(216.0).reshape(72, 3)
MUSIC = np.zeros(10)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def make_zip(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def room_zip(prefix="", microphones="mic_numbers.npy", others=None):
    arrays = {"RIRs.npy": RIRS, "xyzs.npy": XYZS, "music.npy": MUSIC, "bin_RIRs.npy": MUSIC}
    arrays[microphones] = MUSIC
    return make_zip({prefix + name: npy(array) for name, array in arrays.items()} | (others or {}))


ARCHIVE = room_zip("hallwayPanel1/")


class Zenodo(ThreadingHTTPServer):
    """The record; ``troubles`` are what happens to the coming requests for files, in order."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.contents = {"hallwayPanel1.zip": ARCHIVE, "mic_calibrations.zip": make_zip({})}
        self.tampered = {}  # replaces what the record says of every file
        self.record = None  # replaces the whole record
        self.ranges = True
        self.troubles = []
        self.asked = []  # (path, Range header) of every request
        self.stalled = threading.Event()  # ends the answers that never come
        self.url = f"http://127.0.0.1:{self.server_port}{RECORD}"

    def describe(self):
        if self.record is not None:
            return self.record
        files = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/files/{name}/content"},
            }
            | self.tampered
            for name, content in self.contents.items()
        ]
        return json.dumps({"id": 11195833, "files": files, "metadata": {"license": {"id": "cc-by-4.0"}}})

    def asked_for_files(self):
        return [request for request in self.asked if request[0] != RECORD]


class Answer(BaseHTTPRequestHandler):
    """HTTP/1.0: the connection ends with the answer."""

    def do_GET(self):
        zenodo, wants = self.server, self.headers["Range"]
        zenodo.asked.append((self.path, wants))
        if self.path == RECORD:
            return self.answer(200, zenodo.describe().encode())
        trouble = zenodo.troubles.pop(0) if zenodo.troubles else None
        if isinstance(trouble, int):
            return self.answer(trouble, b"trouble")
        if trouble == "stall":
            return zenodo.stalled.wait()
        if isinstance(trouble, str) and "/" in trouble:
            return self.answer(302, b"", Location=trouble)
        content, status = zenodo.contents[self.path.split("/")[-2]], 200
        if wants and zenodo.ranges:
            content, status = content[int(re.fullmatch(r"bytes=(\d+)-", wants)[1]) :], 206
        if trouble == "more":
            content += bytes(1 << 20)
        return self.answer(status, content, half=trouble == "break")

    def answer(self, status, content, *, half=False, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def zenodo(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Zenodo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stalled.set()
        server.shutdown()
        thread.join()


def fetch(zenodo, folder, *configurations):
    return download_haa(configurations or ["hallwayPanel1"], folder, record_url=zenodo.url)


def fails(zenodo, folder, *configurations):
    """The one line that the failure says."""
    with pytest.raises(InputError) as caught:
        fetch(zenodo, folder, *configurations)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetches_a_room_and_leaves_nothing_else(zenodo, tmp_path, capsys):
    folder = tmp_path / "new" / "haa"
    (room,) = fetch(zenodo, folder)
    assert room == folder / "hallwayPanel1"
    assert np.array_equal(np.load(room / "RIRs.npy"), RIRS)
    assert np.array_equal(np.load(room / "xyzs.npy"), XYZS)
    assert names(room) == ["RIRs.npy", "mic_numbers.npy", "xyzs.npy"]
    assert names(folder) == ["hallwayPanel1"]
    assert "100%" in capsys.readouterr().err  # the progress bar


def test_no_name_means_all_fourteen(zenodo, tmp_path):
    small = make_zip({"RIRs.npy": b"r", "xyzs.npy": b"x"})
    zenodo.contents = {f"{name}.zip": small for name in haa_facts()}
    rooms = download_haa([], tmp_path, record_url=zenodo.url)
    assert [room.name for room in rooms] == list(haa_facts())
    assert len(names(tmp_path)) == 14
    assert len(zenodo.asked_for_files()) == 14


def test_what_is_there_is_not_fetched_again(zenodo, tmp_path, capsys):
    room = tmp_path / "hallwayPanel1"
    room.mkdir()
    for name in ("RIRs.npy", "xyzs.npy", "notes.txt"):
        (room / name).write_text("mine")
    assert fetch(zenodo, tmp_path, "hallwayPanel1", "hallwayPanel1") == [room]
    assert zenodo.asked == []
    assert capsys.readouterr().out == f"hallwayPanel1: already in {room}\n"
    assert (room / "RIRs.npy").read_text() == "mine"


def test_unknown_name_is_refused_before_any_request(zenodo, tmp_path):
    message = fails(zenodo, tmp_path, "hallwayPanel1", "kitchenBase")
    assert "'kitchenBase'" in message
    assert all(name in message for name in haa_facts())
    assert zenodo.asked == []


def test_another_folder_in_the_way_is_left_alone(zenodo, tmp_path):
    room = tmp_path / "hallwayPanel1"
    room.mkdir()
    (room / "depth.npy").write_text("mine")
    assert "move it away" in fails(zenodo, tmp_path)
    assert zenodo.asked == []
    assert names(room) == ["depth.npy"]


def test_a_broken_connection_is_taken_up_again(zenodo, tmp_path):
    zenodo.troubles = ["break", "break"]
    (room,) = fetch(zenodo, tmp_path)
    assert np.array_equal(np.load(room / "RIRs.npy"), RIRS)
    first, second, third = (wants for _, wants in zenodo.asked_for_files())
    assert first is None
    assert 0 < int(second[6:-1]) < int(third[6:-1]) < len(ARCHIVE)


def test_the_next_call_goes_on_from_what_is_there(zenodo, tmp_path):
    zenodo.troubles = ["break", 503]
    assert "503" in fails(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1.zip.part"]
    have = (tmp_path / "hallwayPanel1.zip.part").stat().st_size
    assert have > len(ARCHIVE) // 4
    fetch(zenodo, tmp_path)
    assert zenodo.asked_for_files()[-1][1] == f"bytes={have}-"
    assert names(tmp_path) == ["hallwayPanel1"]


def test_a_server_without_ranges_starts_anew(zenodo, tmp_path):
    zenodo.ranges = False
    (tmp_path / "hallwayPanel1.zip.part").write_bytes(ARCHIVE[:1000])
    (room,) = fetch(zenodo, tmp_path)
    assert zenodo.asked_for_files()[0][1] == "bytes=1000-"
    assert np.array_equal(np.load(room / "RIRs.npy"), RIRS)


def test_a_server_that_never_gets_further_is_given_up(zenodo, tmp_path):
    zenodo.ranges, zenodo.troubles = False, ["break"] * 9
    assert "check the network" in fails(zenodo, tmp_path)
    assert len(zenodo.troubles) == 7


def test_a_server_that_has_less_than_the_record_says(zenodo, tmp_path):
    zenodo.contents["hallwayPanel1.zip"] = ARCHIVE[:-1000]
    zenodo.tampered = {"size": len(ARCHIVE), "checksum": f"md5:{hashlib.md5(ARCHIVE).hexdigest()}"}
    assert "could not be read (ConnectionError); check the network" in fails(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1.zip.part"]
    zenodo.contents["hallwayPanel1.zip"] = ARCHIVE
    fetch(zenodo, tmp_path)
    assert zenodo.asked_for_files()[-1][1] == f"bytes={len(ARCHIVE) - 1000}-"
    assert names(tmp_path) == ["hallwayPanel1"]


def test_a_server_that_sends_more_than_the_record_says(zenodo, tmp_path):
    zenodo.troubles = ["more"]
    fetch(zenodo, tmp_path)  # what is behind the end is not read
    shutil.rmtree(tmp_path / "hallwayPanel1")
    zenodo.tampered, zenodo.troubles = {"size": 1000}, []
    assert "does not match md5:" in fails(zenodo, tmp_path)
    assert names(tmp_path) == []
    zenodo.record = " " * (1 << 23)
    assert "bytes, which no record has" in fails(zenodo, tmp_path)


def test_a_server_that_answers_no_more(zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr("haa_peft.downloads.haa.TIMEOUT_S", (10, 0.2))
    zenodo.troubles = ["break", "stall"]
    assert "could not be read (ReadTimeout); check the network: what was downloaded is kept" in fails(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1.zip.part"]
    fetch(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1"]


def test_redirections(zenodo, tmp_path):
    """To another address of the file; in a circle; to what is no web address."""
    moved = f"{zenodo.url}/files/hallwayPanel1.zip/content"
    zenodo.troubles = [moved, "break", moved]
    (room,) = fetch(zenodo, tmp_path)
    assert np.array_equal(np.load(room / "RIRs.npy"), RIRS)
    for troubles, says in (([moved] * 40, "TooManyRedirects"), (["ftp://127.0.0.1/x"], "InvalidSchema"),
                           (["file:///etc/passwd"], "InvalidSchema")):  # fmt: skip
        zenodo.troubles = troubles
        assert f"could not be read ({says})" in fails(zenodo, tmp_path / says)
        assert names(tmp_path / says) == []


def test_wrong_checksum(zenodo, tmp_path):
    zenodo.tampered = {"checksum": "md5:" + "0" * 32}
    assert "md5:000" in fails(zenodo, tmp_path)
    assert names(tmp_path) == []  # nothing wrong that the next call would go on from
    zenodo.tampered = {}
    fetch(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1"]


def test_a_failure_keeps_the_rooms_before_it(zenodo, tmp_path):
    zenodo.contents["hallwayPanel2.zip"] = room_zip()
    zenodo.troubles = [None, 404]
    assert "404" in fails(zenodo, tmp_path, "hallwayPanel1", "hallwayPanel2")
    assert names(tmp_path) == ["hallwayPanel1"]


def test_no_network(zenodo, tmp_path):
    with pytest.raises(InputError, match="could not be read"):
        download_haa(["hallwayPanel1"], tmp_path, record_url="http://127.0.0.1:1/record")


@pytest.mark.parametrize("record", ["<html>", "[]", "{}", '{"files": [{"key": "hallwayPanel1.zip"}]}'])
def test_what_is_no_record(zenodo, tmp_path, record):
    zenodo.record = record
    assert "not a Zenodo record" in fails(zenodo, tmp_path)


def test_a_room_that_the_record_lacks_is_noticed_before_downloading(zenodo, tmp_path):
    message = fails(zenodo, tmp_path, "hallwayPanel1", "complexBase")
    assert "no complexBase.zip but hallwayPanel1.zip, mic_calibrations.zip" in message
    assert zenodo.asked_for_files() == []


@pytest.mark.parametrize(
    ("tampered", "says"),
    [
        ({"links": {"self": "file:///etc/passwd"}}, "not to http or https"),
        ({"links": {"self": "ftp://127.0.0.1/hallwayPanel1.zip"}}, "not to http or https"),
        ({"key": "hallwayPanel1/../../x.zip"}, "which is a path"),
        ({"checksum": ""}, "not md5:..."),
    ],
)
def test_a_record_that_is_not_safe_to_follow(zenodo, tmp_path, tampered, says):
    zenodo.tampered = tampered
    assert says in fails(zenodo, tmp_path)
    assert zenodo.asked_for_files() == []


RAW = {"raw/RIRs.npy": b"other", "raw/xyzs.npy": b"other"}


@pytest.mark.parametrize(
    "archive",
    [
        room_zip(),
        room_zip("./"),
        room_zip("release/Hallway/hallwayPanel1/", "raw/mic_numbers.npy"),
        room_zip(others=RAW),
    ],
    ids=["at the top", "in a dot", "in folders", "with others"],  # bytes hold the time that they were made
)
def test_layouts_of_an_archive(zenodo, tmp_path, archive):
    zenodo.contents["hallwayPanel1.zip"] = archive
    (room,) = fetch(zenodo, tmp_path)
    assert np.array_equal(np.load(room / "RIRs.npy"), RIRS)
    assert names(room) == ["RIRs.npy", "mic_numbers.npy", "xyzs.npy"]


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (make_zip({"RIRs.npy": b"", "other/xyzs.npy": b""}), "in no folder"),
        (make_zip({f"{at}/{name}": b"" for at in "ab" for name in NEEDED}), "in a and in b"),
        (room_zip(others={"../x.npy": b""}), "leads out"),
        (room_zip(others={"/etc/x.npy": b""}), "leads out"),
        (room_zip(others={"a\\..\\..\\x.npy": b""}), "leads out"),
        (room_zip(others={"C:/x.npy": b""}), "leads out"),
        (b"no zip at all", "cannot be unpacked"),
    ],
    ids=["no folder", "two", "up", "root", "backslash", "drive", "no zip"],
)
def test_archives_that_are_refused(zenodo, tmp_path, archive, says):
    zenodo.contents["hallwayPanel1.zip"] = archive
    assert says in fails(zenodo, tmp_path / "haa")
    assert names(tmp_path) == ["haa"]
    assert names(tmp_path / "haa") == ["hallwayPanel1.zip"]  # to look into; it is what the record promised


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_while_downloading(zenodo, tmp_path):
    (tmp_path / "hallwayPanel1.zip.part").symlink_to("/dev/full")
    assert "No space left on device" in fails(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1.zip.part"]


def test_a_full_disk_while_unpacking_keeps_the_archive(zenodo, tmp_path, monkeypatch):
    def fill(_source, target):
        target.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", fill)
        assert "No space left on device" in fails(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1.zip"]
    fetch(zenodo, tmp_path)
    assert names(tmp_path) == ["hallwayPanel1"]
    assert len(zenodo.asked_for_files()) == 1
