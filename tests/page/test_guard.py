"""Requests of other pages, by other names and for other paths do not reach the page."""

import asyncio
import json

import pytest

from haa_peft.page.guard import Guard

OWN = {"host": "127.0.0.1:7860"}


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(path, headers=OWN, method="GET", kind="http", names=(), body=b"{}", uploads=None):
    sent = []
    coming = [{"type": "http.request", "body": body[:5], "more_body": True}, {"type": "http.request", "body": body[5:]}]

    async def send(message):
        sent.append(message)

    async def receive():
        return coming.pop(0)

    pairs = headers if isinstance(headers, list) else list(headers.items())
    scope = {"type": kind, "path": path, "method": method, "headers": [(k.encode(), v.encode()) for k, v in pairs]}
    asyncio.run(Guard(hello, names, uploads)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/data", "/sounds/ab.wav",
                                  "/rirs.sofa", "/gradio_api/file=/tmp/a.wav"])  # fmt: skip
def test_its_own_paths_are_read(path):
    assert ask(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=https://example.org", "/static/../secret", "/sounds/..", "/sounds\\..\\a", "/assets/a\0", "*",
     "//", "/file=/etc/passwd", "/monitoring", "/gradio_api/run/predict", "/gradio_api/call/x", "/gradio_api/runs",
     "/docs", "/gradio_api/vibe-code", "/openapi.json", "/gradio_api/component_server"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"])
def test_nothing_else_is(path, method):
    assert ask(path, method=method)[0] == 404


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload"])
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_what_is_sent_is_posted(path, method):
    assert ask(path, method="POST")[0] == 200
    assert ask(path, method=method)[0] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860", "10.1.1.7:80", "lab.local"])
def test_its_own_names(host):
    assert ask("/", {"host": host}, names=["Lab.local"])[0] == 200


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "", "localhost.", "[::1", "user@evil"])
def test_other_names_are_refused(host):
    assert ask("/", {"host": host})[0] == 421


def test_no_host_or_two_are_refused():
    assert ask("/", {})[0] == 421
    assert ask("/", [("host", "127.0.0.1"), ("host", "evil.example")])[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost:7860", ""])
@pytest.mark.parametrize(("method", "path"), [("GET", "/config"), ("POST", "/gradio_api/upload")])
def test_other_origins_are_refused(origin, method, path):
    assert ask(path, {**OWN, "origin": origin}, method)[0] == 403
    assert ask(path, {**OWN, "origin": "http://127.0.0.1:7860"}, method)[0] == 200


def test_other_sites_may_link_to_the_page_and_no_more():
    site = {"sec-fetch-site": "cross-site"}
    assert ask("/", {**OWN, **site, "sec-fetch-mode": "navigate"})[0] == 200
    assert ask("/", {**OWN, **site, "sec-fetch-mode": "no-cors"})[0] == 403
    assert ask("/rirs.sofa", {**OWN, **site, "sec-fetch-mode": "navigate"})[0] == 403
    assert ask("/rirs.sofa", {**OWN, "sec-fetch-site": "same-site"})[0] == 403
    assert ask("/rirs.sofa", {**OWN, "sec-fetch-site": "same-origin"})[0] == 200


def test_nothing_is_loaded_from_elsewhere_nor_by_others():
    _, headers, body = ask("/")
    assert body == b"hello"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert b"access-control-allow-origin" not in headers


def test_sockets_are_refused():
    assert ask("/", kind="websocket")[0] == 400


ASKED = "/gradio_api/queue/join"


def test_what_is_asked_reaches_the_page_whole():
    asked, found = b'{"data": [1, "a", null]}', []

    async def read(scope, receive, send):
        message = await receive()
        found.append(message["body"])
        await hello(scope, receive, send)

    coming = [{"type": "http.request", "body": asked, "more_body": False}]

    async def receive():
        return coming.pop(0)

    async def send(message):
        pass

    scope = {"type": "http", "path": ASKED, "method": "POST", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(read)(scope, receive, send))
    assert found == [asked]


def test_requests_name_uploads_alone(tmp_path):
    """Gradio would copy what they name to where it can be read."""
    (tmp_path / "link").symlink_to("/etc")

    def status(path):
        body = json.dumps({"data": [None, [{"value": {"path": path}}]]}).encode()
        return ask(ASKED, method="POST", body=body, uploads=tmp_path)[0]

    assert status(None) == status(f"{tmp_path}/a/b.wav") == 200
    for other in ("/etc/passwd", "b.wav", f"{tmp_path}/../b", f"{tmp_path}/link/passwd", "http://a.b/", "", 5, [1],
                  {"path": 1}, "a\0b", "~/a", f"{tmp_path}x/b"):  # fmt: skip
        assert status(other) == 403, other


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"{", 400), (b"[" * 100_000, 400), (b" " * (1 << 21), 413)])
def test_odd_requests_are_refused(body, status):
    assert ask(ASKED, method="POST", body=body)[0] == status
