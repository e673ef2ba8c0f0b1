"""Serving the page on this machine."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from haa_peft.environment import package
from haa_peft.errors import InputError
from haa_peft.inference.predictor import RoomPredictor
from haa_peft.listening.hrtf import Hrtf, read_hrtf
from haa_peft.model.xrir import XRIR
from haa_peft.page.answers import Answers
from haa_peft.page.guard import Guard
from haa_peft.page.sounds import LARGEST_MB
from haa_peft.store.names import iterate_names, store_folder

HOST, PORT = "127.0.0.1", 7860
NOTES = "haa_peft.rendering.extent"
"""Logs what a pack does not keep, at each prediction; the page says it itself."""


def listen(
    names: Sequence[str] = (),
    *,
    store: str | Path | None = None,
    backbone: XRIR | str | Path = "small",
    host: str = HOST,
    port: int = PORT,
    hrtf: str | Path | None = None,
    host_names: Collection[str] = (),
    ready: Any = print,
) -> None:
    """Serve the page until it is interrupted.

    Parameters
    ----------
    names : of adapters, those of one room become its configurations; all of the store unless given.
    store, backbone : as :meth:`~haa_peft.inference.predictor.RoomPredictor.load` takes them.
    host, port : to listen on; port 0 is any free one.
    hrtf : SOFA file with head-related transfer functions, for binaural sound.
    host_names : by which the page may be called besides ``localhost`` and IP addresses.
    ready : is called with the page's address once it can be opened.

    Raises
    ------
    InputError
        When gradio is missing, an adapter cannot be loaded, or the address is in use.
    """
    logging.getLogger(NOTES).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="haa-peft-page-") as folder:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(Path(folder) / "gradio"))
        package("gradio", "the page", "listen")
        package("matplotlib", "the page's pictures", "listen")
        heard = Path(folder) / "sounds"
        heard.mkdir()
        offered = list(dict.fromkeys(names)) or [str(name) for name in iterate_names(store_folder(store))]
        if not offered:
            raise InputError(f"{store_folder(store)} has no adapters; train one, or name another --store")
        head = None if hrtf is None else read_hrtf(hrtf)
        predictor = RoomPredictor.load(offered[0], store=store, backbone=backbone)
        for name in dict.fromkeys(names):
            predictor.switch(name)
        app = make_app(Answers(predictor, offered), heard, head, host_names)
        _serve(app, host, port, ready)


def make_app(answers: Answers, folder: Path, hrtf: Hrtf | None = None, host_names: Collection[str] = ()) -> Guard:
    """The page as an ASGI application.

    Parameters
    ----------
    answers : of the rooms that it offers.
    folder : where sounds are kept while it lives.
    hrtf : for binaural sound.
    host_names : as for :func:`listen`.
    """
    fastapi, gr = package("fastapi", "the page", "listen"), package("gradio", "the page", "listen")
    from haa_peft.page.app import Page, text_of
    from haa_peft.page.hearing import Hearing

    hearing = Hearing(answers, folder, hrtf)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app, answers, hearing)
    fonts = ("system-ui", "sans-serif")
    theme = gr.themes.Default(font=fonts, font_mono=("ui-monospace", "monospace"), primary_hue="orange")
    blocks = Page(answers, hearing).blocks()
    gr.mount_gradio_app(
        app, blocks, path="/", theme=theme, css=text_of("page.css"), footer_links=[],
        run_history=False, allowed_paths=[], show_error=False, max_file_size=f"{LARGEST_MB}mb", ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    blocks.has_launched = True  # or gradio would not check which files a request names
    return Guard(app, host_names, Path(os.environ["GRADIO_TEMP_DIR"]))


def _add_files(app: Any, answers: Answers, hearing: Any) -> None:
    """Routes of what is played and saved."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse, PlainTextResponse, Response

    from haa_peft.page.responses import response_file

    @app.get("/sounds/{file}")
    def sound(file: str) -> Response:
        path = hearing.path(file)
        if path is None or not path.is_file():
            raise HTTPException(404, "this sound is gone; choose the position again")
        return FileResponse(path, media_type="audio/wav")

    def responses(kind: str, **asked: str) -> Response:
        try:
            content = response_file(answers, kind, **asked)
        except InputError as error:
            return PlainTextResponse(f"error: {error}\n", 422)
        attached = {"content-disposition": f'attachment; filename="{kind}"'}
        return Response(content, media_type="application/octet-stream", headers=attached)

    @app.get("/rir.wav")
    def wav(name: str, positions: str, height: str, receiver: str = "0") -> Response:
        return responses("rir.wav", name=name, receiver=receiver, positions=positions, height=height)

    @app.get("/rirs.sofa")
    def sofa(name: str, positions: str, height: str, receiver: str = "0") -> Response:
        return responses("rirs.sofa", name=name, receiver=receiver, positions=positions, height=height)


def _serve(app: Any, host: str, port: int, ready: Any) -> None:
    uvicorn = package("uvicorn", "the page", "listen")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--host {host} --port {port}: cannot listen there ({getattr(error, 'strerror', None) or error}); "
                "give another --port, or 0 for any free one"
            ) from None
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        address = f"http://{shown}:{opened.getsockname()[1]}/"
        config = uvicorn.Config(app, log_level="warning", proxy_headers=False, server_header=False,
                                timeout_graceful_shutdown=2)  # fmt: skip
        server = uvicorn.Server(config)
        opened.listen(128)
        ready(address)
        server.run(sockets=[opened])
