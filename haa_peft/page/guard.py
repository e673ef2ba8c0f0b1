"""Which requests the page answers: those of its own address, for its own paths, from its own page.

A page on this machine can be reached by every other page that a browser shows. Three headers tell whose request one is:
``Origin`` and ``Sec-Fetch-Site`` name other pages, and ``Host`` another name for this address (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OWN = ("assets/", "static/", "gradio_api/file=", "gradio_api/heartbeat/", "sounds/")
"""Beginnings of what is read."""
READ = {"", "config", "theme.css", "favicon.ico", "manifest.json", "rir.wav", "rirs.sofa", "gradio_api/queue/data",
        "gradio_api/info", "gradio_api/app_id", "gradio_api/startup-events", "gradio_api/upload_progress"}  # fmt: skip
ASKED = "gradio_api/queue/join"
SENT = {ASKED, "gradio_api/upload", "gradio_api/cancel", "gradio_api/reset"}
LONGEST_BODY = 1 << 20
"""Bytes of what a page asks; uploads are sent elsewhere."""
POLICY = "; ".join((
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval'", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "media-src 'self' blob: data:", "font-src 'self' data:", "worker-src 'self' blob:",
    "object-src 'none'", "base-uri 'self'", "form-action 'self'", "frame-ancestors 'none'",
))  # fmt: skip
"""What the browser may load for the page: nothing from elsewhere."""


class Guard:
    """ASGI middleware that refuses what is not the page's own.

    Parameters
    ----------
    app : the application behind it.
    names : host names that the page may be called by, besides ``localhost`` and IP addresses.
    uploads : folder that files which requests name must lie in; gradio would copy any other file of this machine there,
        from where it can be read, and fetch addresses.
    """

    def __init__(self, app: Any, names: Collection[str] = (), uploads: Path | None = None) -> None:
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}
        self._uploads = uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = (400, "the page speaks HTTP alone") if scope["type"] != "http" else self.refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(key, value) for key, value in message["headers"] if not key.startswith(b"access-control-")]
                message["headers"] = [*kept, *_HEADERS]
            await send(message)

        if scope["path"] == f"/{ASKED}" and scope["method"] == "POST":
            body = await _body(receive)
            wrong = (413, "the request is too long") if body is None else self._names_other_files(body)
            if wrong is not None:
                await _answer(send, *wrong)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, with_policy)

    def _names_other_files(self, body: bytes | None) -> tuple[int, str] | None:
        """Status and reason for a request that names a file which was not uploaded here."""
        try:
            left = [json.loads(body or b"")]
        except (ValueError, RecursionError):
            return 400, "the request is no JSON"
        while left:
            one = left.pop()
            if isinstance(one, dict) and one.get("path") is not None and not self._is_upload(one["path"]):
                return 403, "the request names a file that was not uploaded here"
            left += list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        return None

    def _is_upload(self, path: object) -> bool:
        if self._uploads is None or not isinstance(path, str) or "\0" in path:
            return False
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self._uploads.resolve())
        except (OSError, RuntimeError, ValueError):
            return False

    def refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason for a request that is refused; None for the page's own.

        Parameters
        ----------
        scope : of ASGI, an HTTP request's.
        """
        given: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            given.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, path, method = given.get("host", []), scope["path"], scope["method"]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 421, "this page is not called by that host name"
        if any(urlsplit(origin).netloc != hosts[0] for origin in given.get("origin", [])):
            return 403, "requests of other pages are refused"
        opened = path == "/" and given.get("sec-fetch-mode") == ["navigate"]
        if given.get("sec-fetch-site", ["none"])[0] not in ("same-origin", "none") and not opened:
            return 403, "requests of other pages are refused"
        if not _is_known(method, path):
            return 404, "the page has nothing there"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_known(method: str, path: str) -> bool:
    """Whether the page has a path, without steps out of it."""
    if ".." in path or "\\" in path or "\0" in path or not path.startswith("/"):
        return False
    name = path[1:]
    if method == "POST":
        return name in SENT
    return method in ("GET", "HEAD") and (name in READ or name.startswith(OWN))


_HEADERS = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"), (b"cross-origin-resource-policy", b"same-origin")]  # fmt: skip


async def _body(receive: Any) -> bytes | None:
    """Of a request; None if it is longer than ``LONGEST_BODY``."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return body


def _again(body: bytes | None, receive: Any) -> Any:
    """What gives a body that was read, and then what comes behind it."""
    given = False

    async def first() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return first


async def _answer(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"error: {reason}\n".encode()})
