"""The page in a browser: what people do with it, and what other pages cannot."""

import base64
import contextlib
import http.client
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from haa_peft import RoomPredictor
from haa_peft.listening import dry_sound
from haa_peft.page.answers import read_path, timed
from haa_peft.page.sounds import LARGEST_MB

pytest.importorskip("gradio", exc_type=ImportError)
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]
ROOT = Path(__file__).parents[2]
STORE = ROOT / "adapters"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP evil.example 127.0.0.1"]  # fmt: skip
WATCHED = """
import os, sys
def watch(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{given[1][0]}\\n")
sys.addaudithook(watch)
"""
"""Writes down whom a process calls."""
SECRET = "this is nobody's business"
NAMES = ["classroom-twin/base", "classroom-twin/panel", "dampened-twin/base"]


class Server:
    """The page as the command line serves it."""

    def __init__(self, folder):
        self.folder, self.calls = folder, folder / "calls"
        self.calls.touch()
        (folder / "sitecustomize.py").write_text(WATCHED)
        (folder / "here").mkdir()
        (folder / "here" / "secret.txt").write_text(SECRET)
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "CALLS": str(self.calls),
                       "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}  # fmt: skip
        head = ["--hrtf", str(two_microphones(folder / "head.sofa"))]
        command = [sys.executable, "-m", "haa_peft", "listen", *NAMES, "--store", str(STORE), "--port", "0", *head]
        self.process = subprocess.Popen(
            [*command, "--no-browser"], cwd=folder / "here", env=environment, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & ignores it
        )  # fmt: skip
        self.address = self.process.stdout.readline().split()[0]
        self.host = urlsplit(self.address).netloc

    def ask(self, path, method="GET", body=None, **headers):
        """Status, headers and content of a request whose path is sent as it is."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {**headers, **({"Content-Length": len(body)} if body else {})}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, b"" if "text/event-stream" in str(answer.headers) else answer.read()

    @property
    def uploads(self):
        return [path.name for path in self.folder.glob("haa-peft-page-*/gradio/**/*") if path.is_file()]


def two_microphones(path):
    """HRTFs of no head: two ears 18 cm apart that hear all directions alike."""
    sofar = pytest.importorskip("sofar")
    order = np.arange(60) + 0.5
    height, azimuth = 1 - order / 30, np.degrees(np.pi * (1 + 5**0.5) * order) % 360
    elevation = np.degrees(np.arcsin(height))
    side = np.cos(np.radians(elevation)) * np.sin(np.radians(azimuth))
    delays = 30 - np.stack([side, -side], axis=1) * 0.09 / 343 * 44_100
    sofa = sofar.Sofa("SimpleFreeFieldHRIR")
    sofa.Data_IR = np.sinc(np.arange(64) - delays[..., None])
    sofa.Data_SamplingRate = 44_100
    sofa.SourcePosition = np.stack([azimuth, elevation, np.full(60, 2.0)], axis=1)
    sofa.ReceiverPosition = np.array([[0, 0.09, 0], [0, -0.09, 0]])
    sofar.write_sofa(str(path), sofa)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    served = Server(tmp_path_factory.mktemp("page"))
    yield served
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(20) == 130
    assert not list(served.folder.glob("haa-peft-page-*"))
    assert set(served.calls.read_text().split()) <= {"127.0.0.1", "::1"}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Shown:
    """The page as it is shown, and what a visitor does."""

    def __init__(self, browser, server, **more):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **more})
        self.page, self.server = self.context.new_page(), server
        self.hosts, self.wrong = set(), []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("response", lambda answer: answer.status >= 400 and self.wrong.append(answer.url))
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(server.address)
        self.until("document.querySelector('#status')?.innerText.includes('ready')")
        self.until("document.querySelector('.plan-picture svg')")

    def until(self, what):
        self.page.wait_for_function(what, timeout=60_000)

    @property
    def playing(self):
        return self.page.evaluate("document.querySelector('audio').getAttribute('src')")

    @contextlib.contextmanager
    def another(self):
        """Inside the block something is done, behind it another sound is there."""
        before = self.playing
        yield
        self.until(f"document.querySelector('audio').getAttribute('src') !== {before!r}")
        self.until("document.querySelector('#status')?.innerText.includes('ready')")
        self.until("document.querySelector('audio').readyState >= 1")

    @property
    def status(self):
        return self.page.inner_text("#status .status")

    def place(self, x, y):
        """Where a point of the room in metres is on the screen."""
        ends = json.loads(self.page.get_attribute(".plan-picture", "data-axes"))
        self.page.locator("#plan svg").scroll_into_view_if_needed()
        box = self.page.locator("#plan svg").bounding_box()
        width, height = map(float, self.page.get_attribute("#plan svg", "viewBox").split()[2:])
        share = [(v - ends[a][0]) / (ends[a][1] - ends[a][0]) for a, v in (("x", x), ("y", y))]
        across = ends["left"] + share[0] * (ends["right"] - ends["left"])
        down = ends["bottom"] + share[1] * (ends["top"] - ends["bottom"])
        return box["x"] + across / width * box["width"], box["y"] + down / height * box["height"]

    def position(self):
        return [float(self.page.input_value(f"#{axis} input")) for axis in ("x", "y", "height")]

    def samples(self):
        """(C, N) of the audio element's sound, as the browser decodes it, and the file's own rate."""
        found = self.page.evaluate(
            """async () => {
                const bytes = await (await fetch(document.querySelector('audio').currentSrc)).arrayBuffer();
                const view = new DataView(bytes), rate = view.getUint32(24, true);
                const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice(0));
                const text = data => { let s = ''; const b = new Uint8Array(data.buffer);
                    for (let i = 0; i < b.length; i += 32768) s += String.fromCharCode(...b.subarray(i, i + 32768));
                    return btoa(s); };
                return [rate, [...Array(sound.numberOfChannels).keys()].map(i => text(sound.getChannelData(i)))];
            }"""
        )
        return np.stack([np.frombuffer(base64.b64decode(text), np.float32) for text in found[1]]), found[0]

    def gain_db(self):
        return float(re.search(r"gain ([+-][\d.]+) dB", self.page.inner_text("#caption"))[1])


@pytest.fixture
def shown(browser, server):
    opened = Shown(browser, server)
    yield opened
    opened.context.close()
    assert not opened.wrong
    assert opened.hosts == {server.host}


def same_but_for_a_gain(samples, expected):
    """The gain in dB between two sounds (C, N) that must otherwise be equal to 16 bits."""
    assert samples.shape == expected.shape
    gain = (samples * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(samples, gain * expected, atol=4e-5)
    return 20 * np.log10(gain)


@pytest.fixture(scope="module")
def predictor():
    return RoomPredictor.load(NAMES[0], store=STORE)


def test_click_play_and_swap(shown, predictor):
    """What plays is what the predictor gives, and another configuration goes on where the first was."""
    dry, rate = dry_sound()
    with shown.another():
        shown.page.mouse.click(*shown.place(4.9, 2.0))
    place = shown.position()
    assert place == pytest.approx([4.9, 2.0, 1.3], abs=0.02)
    samples, found = shown.samples()
    assert found == rate
    gain = same_but_for_a_gain(samples, predictor.auralise(dry, rate, place))
    assert gain == pytest.approx(shown.gain_db(), abs=0.06)
    shown.page.evaluate("document.querySelector('audio').play()")
    shown.until("document.querySelector('audio').currentTime > 0.5")
    before = shown.page.evaluate("document.querySelector('audio').currentTime")
    with shown.another():
        shown.page.get_by_label("panel", exact=True).check()
    shown.until(f"!document.querySelector('audio').paused && document.querySelector('audio').currentTime > {before}")
    samples, _ = shown.samples()
    predictor.switch(NAMES[1])
    try:
        swapped = same_but_for_a_gain(samples, predictor.auralise(dry, rate, place))
    finally:
        predictor.switch(NAMES[0])
    assert swapped == pytest.approx(gain, abs=0.01)
    assert "classroom-twin/panel" in shown.page.inner_text("#caption")
    shown.until("document.querySelector('#plan image')")
    shown.until("document.querySelector('#plan svg').getAttribute('aria-label').includes('classroom-twin/panel')")


def test_another_room_is_chosen(shown):
    shown.until("document.querySelector('#table').innerText.includes('C50')")
    with shown.another():
        shown.page.click("#room input")
        shown.page.get_by_role("option", name="dampened-twin").click()
    assert "dampened-twin/base" in shown.page.inner_text("#caption")
    shown.until("document.querySelector('#plan svg').getAttribute('aria-label').includes('dampened-twin/base')")
    assert shown.page.locator("#configuration input").count() == 1


def test_a_path_is_drawn_and_heard(shown, predictor):
    dry, rate = dry_sound()
    shown.page.get_by_label("Draw: a path").check()
    shown.until("document.querySelector('.plan').classList.contains('draws')")
    with shown.another():
        shown.page.mouse.move(*shown.place(4.6, 1.5))
        shown.page.mouse.down()
        for x in np.linspace(4.6, 5.4, 8):
            shown.page.mouse.move(*shown.place(x, 1.5))
        shown.page.mouse.up()
    corners = read_path(shown.page.input_value("#path textarea"), 1.3)
    np.testing.assert_allclose(corners[[0, -1], :2], [[4.6, 1.5], [5.4, 1.5]], atol=0.12)
    samples, _ = shown.samples()
    same_but_for_a_gain(samples, predictor.auralise(dry, rate, timed(corners, 1.0)))
    assert "rirs.sofa" in shown.page.inner_html("#files")
    assert "rir.wav" not in shown.page.inner_html("#files")


def test_keys_move_the_position(shown):
    x, y, _ = shown.position()
    with shown.another():
        shown.page.focus(".plan")
        shown.page.keyboard.press("ArrowRight")
        shown.page.keyboard.press("Shift+ArrowDown")
    assert shown.position()[:2] == pytest.approx([x + 0.1, y - 0.5], abs=0.011)


def test_two_ears(shown):
    with shown.another():
        shown.page.get_by_label("Binaural").check()
    samples, _ = shown.samples()
    assert len(samples) == 2
    assert abs(samples[0] - samples[1]).max() > 0.01


def test_what_is_outside_is_said(shown):
    before = shown.playing
    shown.page.fill("#x input", "50")
    shown.page.keyboard.press("Enter")
    shown.until("document.querySelector('#status .wrong')")
    assert "lies outside classroom-twin/base" in shown.status
    assert shown.playing == before
    with shown.another():
        shown.page.fill("#x input", "5")
        shown.page.keyboard.press("Enter")


def written(path, samples, rate=8000, **more):
    soundfile.write(path, samples, rate, **more)
    return path


def test_own_sounds_are_heard_and_odd_ones_refused(shown, predictor, tmp_path):
    shown.page.click("#more button")
    click = np.zeros(4000)
    click[[0, 900]] = 1, -0.5
    odd = {
        "text.wav": "cannot be read as a sound",
        "eight.wav": "has 8 channels but must have 1 or 2",
        "none.wav": "holds no samples",
        "nan.wav": "not finite",
        "long.flac": "lasts 40 s but at most 30 s",
    }
    (tmp_path / "text.wav").write_text("hello")
    written(tmp_path / "eight.wav", np.ones((80, 8)))
    written(tmp_path / "none.wav", np.zeros(0))
    written(tmp_path / "nan.wav", np.array([1, np.nan]), subtype="FLOAT")
    written(tmp_path / "long.flac", np.ones(40 * 8000))
    before = shown.playing
    for name, reason in odd.items():
        shown.page.set_input_files("#upload input[type=file]", tmp_path / name)
        shown.until(f"document.querySelector('#status')?.innerText.includes({name!r})")
        assert reason in shown.status
        assert shown.status.startswith(name)
        assert "\n" not in shown.status
        assert shown.playing == before
        shown.page.get_by_label("Clear").or_(shown.page.get_by_label("Remove")).first.click()
        shown.until("document.querySelector('#upload input[type=file]')")
        shown.until("document.querySelector('#status')?.innerText.includes('ready')")
    with shown.another():
        shown.page.set_input_files("#upload input[type=file]", written(tmp_path / "click.wav", click, 24_000))
    samples, rate = shown.samples()
    assert rate == 24_000
    same_but_for_a_gain(samples, predictor.auralise(click, rate, shown.position()))


def test_files_that_are_too_large_are_not_taken(shown, server, tmp_path):
    shown.page.click("#more button")
    large = written(tmp_path / "large.wav", np.ones(LARGEST_MB * 600_000), 48_000)
    assert large.stat().st_size > LARGEST_MB << 20
    before = shown.playing
    shown.page.set_input_files("#upload input[type=file]", large)
    shown.page.get_by_text("exceed").first.wait_for(timeout=30_000)
    assert shown.playing == before
    assert "large.wav" not in server.uploads
    shown.wrong[:] = [wrong for wrong in shown.wrong if "413" not in wrong and "upload" not in wrong]


def test_files_to_save(shown, predictor):
    place = shown.position()
    with shown.page.expect_download() as saved:
        shown.page.get_by_text("Room impulse response (WAV").click()
    samples, rate = soundfile.read(saved.value.path())
    expected = predictor.predict(place, sample_rate=48_000, length="full")[0] * predictor.scale
    assert rate == 48_000
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    with shown.page.expect_download() as saved:
        shown.page.get_by_text("(SOFA").click()
    assert Path(saved.value.path()).read_bytes()[1:4] == b"HDF"
    assert saved.value.suggested_filename == "rirs.sofa"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_need_no_scrolling_aside(browser, server, scheme):
    shown = Shown(browser, server, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
    text, ground = (shown.page.evaluate(f"getComputedStyle(document.querySelector({of!r})).{what}") for of, what in
                    ((".plan-picture svg", "color"), ("body", "backgroundColor")))  # fmt: skip
    light, dark = (ground, text) if scheme == "light" else (text, ground)
    assert sum(map(float, re.findall(r"[\d.]+", light)[:3])) > sum(map(float, re.findall(r"[\d.]+", dark)[:3])) + 300
    shown.context.close()


@pytest.fixture
def elsewhere(browser):
    """A page of another origin on this machine."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>elsewhere</h1>")

        def log_message(self, *_):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{served.server_port}/")
    yield page
    context.close()
    served.shutdown()
    served.server_close()


def test_pages_of_other_origins_are_refused(server, elsewhere):
    """They can neither read anything nor leave a file, with what browsers send without asking first."""
    before = server.uploads
    failed = []
    elsewhere.on("requestfailed", lambda asked: failed.append(asked.url))
    done = elsewhere.evaluate(
        """async address => {
            const form = new FormData(); form.append('files', new File(['x'], 'planted.wav'));
            const tries = [
                () => fetch(address + 'config'), () => fetch(address + 'config', {mode: 'no-cors'}),
                () => fetch(address + 'gradio_api/upload', {method: 'POST', body: form, mode: 'no-cors'}),
                () => fetch(address + 'gradio_api/queue/join', {method: 'POST', body: '{}', mode: 'no-cors'}),
                () => fetch(address + 'gradio_api/queue/join', {method: 'POST', body: '{}',
                            headers: {'Content-Type': 'application/json'}}),
                () => new Promise((yes, no) => { const image = new Image(); image.onload = yes; image.onerror = no;
                                                 image.src = address + 'favicon.ico'; }),
            ];
            const found = [];
            for (const one of tries)
                try { const a = await one(); found.push(a && a.ok); } catch { found.push('failed'); }
            return found;
        }""",
        server.address,
    )
    assert not any(one is True for one in done)
    assert {urlsplit(url).path for url in failed} >= {"/config", "/gradio_api/upload", "/gradio_api/queue/join"}
    assert server.uploads == before
    origin = elsewhere.evaluate("location.origin")
    for path, method in (("/config", "GET"), ("/gradio_api/upload", "POST"), ("/gradio_api/queue/join", "POST")):
        assert server.ask(path, method, b"{}", Origin=origin)[0] == 403
        assert server.ask(path, method, b"{}", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors")[0] == 403
    elsewhere.set_content(f"<iframe src='{server.address}'></iframe>")
    elsewhere.wait_for_timeout(500)
    assert not any(frame.query_selector("#plan") for frame in elsewhere.frames[1:])


def test_other_names_of_the_address_are_refused(server, browser):
    context = browser.new_context()
    answer = context.new_page().goto(f"http://evil.example:{urlsplit(server.address).port}/")
    assert answer.status == 421
    context.close()


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=secret.txt", "/gradio_api/file={here}/secret.txt",
     "/gradio_api/file=../secret.txt", "/gradio_api/file=%2e%2e/here/secret.txt", "/gradio_api/file={folder}/calls",
     "/gradio_api/file={gradio}/../../here/secret.txt", "/gradio_api/file={gradio}/%252e%252e/%252e%252e/here/a",
     "/gradio_api/file=http://127.0.0.1:1/", "/file=/etc/passwd", "/file/etc/passwd", "/gradio_api/file/etc/passwd",
     "/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd", "/static//etc/passwd",
     "/assets//etc/passwd",
     "/sounds/..%2f..%2fhere%2fsecret.txt", "/sounds/../here/secret.txt", "//etc/passwd", "/../../etc/passwd",
     "/gradio_api/proxy=http://127.0.0.1:1/", "/theme.css/../../secret.txt", "/svelte/..%2f..%2fetc/passwd",
     "/custom_component/1/client/component/style.css", "/gradio_api/stream/1/1/1/playlist-file", "/monitoring",
     "/gradio_api/runs", "/gradio_api/vibe-code", "/gradio_api/dev/reload", "/docs", "/openapi.json"],
)  # fmt: skip
def test_paths_outside_are_refused(server, path):
    (own,) = server.folder.glob("haa-peft-page-*")
    path = path.format(here=server.folder / "here", folder=server.folder, gradio=own / "gradio")
    status, _, content = server.ask(path)
    assert status in (400, 403, 404), content[:200]
    assert SECRET.encode() not in content
    assert b"root:" not in content
    assert server.ask("/")[0] == 200


def test_a_forged_upload_reads_no_file(server, shown):
    """A request as the page sends it, but with a path that was never uploaded."""
    with shown.page.expect_request("**/queue/join*") as sent:
        shown.page.get_by_label("Dry").check()
    body = json.loads(sent.value.post_data)
    at = next(i for i, value in enumerate(body["data"]) if value is None)
    for path in (
        "/etc/passwd",
        str(server.folder / "here" / "secret.txt"),
        "secret.txt",
        "http://127.0.0.1:1/a",
        ["a"],
        5,
    ):
        body["data"][at] = {"path": path, "orig_name": "a.wav", "meta": {"_type": "gradio.FileData"}}
        address = "/gradio_api/queue/join"
        status, _, content = server.ask(address, "POST", json.dumps(body).encode(), Content_Type="application/json")
        assert (status, content) == (403, b"error: the request names a file that was not uploaded here\n")
    shown.page.wait_for_timeout(500)
    assert not any(name in server.uploads for name in ("passwd", "secret.txt", "a"))


def test_long_odd_requests_are_answered_in_a_line(server):
    for query in ("", "?name=a", "?name=" + "a" * 5000 + "&positions=1%201&height=1"):
        status, _, content = server.ask(f"/rir.wav{query}")
        assert status == 422
        assert len(content) < 800
    samples, rate = soundfile.read(
        io.BytesIO(server.ask("/rir.wav?name=classroom-twin/base&positions=4.9%202&height=1.3")[2])
    )
    assert rate == 48_000
    assert np.isfinite(samples).all()
