"""The server of `openmae demo`: one page and what it asks for, for one person, on this machine.

One inference runs at a time and few wait for it. Images are named by index or by the id that their
upload was given, never by a path. What goes wrong is told in one line, never as a traceback.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException as StarletteHTTPException

from openmae.data.apart import Apart
from openmae.errors import OpenMAEError, StorageError
from openmae.loopback import LOOPBACK
from openmae.report.demoguard import Guard, Patient, RefusedError
from openmae.report.explorer import Ask, Explorer, NoImageError
from openmae.report.explorerpage import policy, served_page
from openmae.report.hiding import LEAST, MOST

QUEUE = 8
"""Inferences that wait for the one that runs; more are told to come again."""

_CONNECTIONS = 256
_MOST_SEED = 2**53 - 1  # of a browser's whole numbers

T = TypeVar("T")
Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Which(_Body):
    """An image: a sample by index, or an upload by its id."""

    image: Number | Id
    step: Number | None = None


class HidingBody(Which):
    """What to hide in it."""

    mask: Annotated[str, StringConstraints(max_length=20)] | None = None
    ratio: Annotated[float, Field(ge=LEAST, le=MOST, strict=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=_MOST_SEED)] = 0
    hidden: Annotated[list[Number], Field(max_length=20_000)] = []
    cheat_scale: bool = False
    bands: Annotated[list[Number], Field(max_length=3)] = []


class PatchBody(Which):
    """A patch of it."""

    patch: Number


class Desk:
    """Two threads that work in the order of arrival, one for models and one for files, with short
    queues.
    """

    def __init__(self, explorer: Explorer, queue: int = QUEUE) -> None:
        self.explorer, self.queue, self.apart = explorer, queue, Apart()
        self.asked = 0
        self._waiting = {"model": 0, "file": 0}
        self._threads = {name: ThreadPoolExecutor(1, f"demo-{name}") for name in self._waiting}

    async def do(self, where: str, work: Callable[..., T], *given: Any) -> T:
        """Run `work(*given)` in a thread, after those who came before.

        Raises:
            RefusedError: too many are waiting.
        """
        if self._waiting[where] > self.queue:
            raise RefusedError(503, "busy: one picture is made at a time", **{"retry-after": "1"})
        self._waiting[where] += 1
        self.asked += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads[where], work, *given)
        finally:
            self._waiting[where] -= 1

    def close(self) -> None:
        """End the threads and the process that decodes."""
        self.apart.close()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)


def application(desk: Desk, token: str, cookie: str) -> FastAPI:
    """The routes, without the guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    explorer, page = desk.explorer, served_page()

    @app.get("/")
    async def first() -> Response:
        answer = HTMLResponse(page, headers={"content-security-policy": policy(page)})
        answer.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
        return answer

    @app.get("/api/model")
    async def model() -> Any:
        return await desk.do("model", explorer.about)

    @app.post("/api/image")
    async def image(request: Request) -> Any:
        data = await request.body()
        name = _file_name(request.headers.get("x-name", ""))
        gray = explorer.decoding.gray
        pixels = await desk.do("file", desk.apart.decode, data, gray)
        return await desk.do("model", explorer.add, name, pixels)

    @app.post("/api/reconstruct")
    async def pictures(body: HidingBody) -> Any:
        given = body.model_dump() | {"hidden": tuple(body.hidden), "bands": tuple(body.bands)}
        return await desk.do("model", explorer.reconstruct, Ask(**given))

    @app.post("/api/attention")
    async def attention(body: PatchBody) -> Any:
        return await desk.do("model", explorer.attention, body.image, body.patch, body.step)

    @app.post("/api/neighbours")
    async def neighbours(body: Which) -> Any:
        return await desk.do("model", explorer.neighbours, body.image)

    @app.get("/api/sample/{index}.png")
    async def sample(index: str) -> Response:
        found = await desk.do("model", explorer.sample, _index(index))
        return Response(found, media_type="image/png")

    @app.get("/api/neighbour/{index}.png")
    async def neighbour(index: str) -> Response:
        found = await desk.do("model", explorer.neighbour, _index(index))
        return Response(found, media_type="image/png")

    _errors(app)
    return app


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NoImageError(text)
    return int(text)


def _file_name(text: str) -> str:
    """What an upload is called, for people and for the command: the last part of a path."""
    plain = unquote(text, errors="replace").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in plain if c.isprintable())[:120].strip()
    return shown if shown not in ("", ".", "..") else "image"


def _errors(app: FastAPI) -> None:
    """Every answer that is none, as one line of JSON."""

    def told(status: int, text: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(OpenMAEError)
    async def ours(_: Request, error: OpenMAEError) -> Response:
        gone = isinstance(error, StorageError)
        return told(410 if gone else 400, " ".join(str(error).split())[:300])

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return told(error.status, error.text, **error.headers)

    @app.exception_handler(NoImageError)
    async def lost(_: Request, error: NoImageError) -> Response:
        return told(404, "there is no such image (any more)")

    @app.exception_handler(StarletteHTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        return told(error.status_code, str(error.detail)[:100], **(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"][1:2] if first["type"] != "json_invalid"]
        return told(422, f"{' '.join(names)[:40] or 'body'}: {first['msg'][:100]}")

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return told(500, "an error inside of the demo; its terminal has more")


class _Server(uvicorn.Server):
    """Ends when it is asked to, and then nothing else is raised: Ctrl-C is the way out."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asked = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        heeded = [s for s in asked if signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, self.handle_exit) for s in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        StorageError: the address is in use or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"port {port} of {host} cannot be opened: {reason}. Give --port 0 for any free one"
        ) from None


def guarded(desk: Desk, token: str, port: int, host: str) -> Guard:
    """The application with its guard, for the names under which `host` can be asked for."""
    cookie = f"openmae_demo_{port}"
    loopback = host in LOOPBACK
    names = {*LOOPBACK, host.lower()} | (set() if loopback else _own_names())
    return Guard(application(desk, token, cookie), token, cookie, names, not loopback)


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, socket.getfqdn().lower(), f"{name}.local"}


def server(app: Guard, **more: Any) -> uvicorn.Server:
    """The server, not yet running: no WebSockets, nothing in a log, no name of itself."""
    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=16 * 1024,
        **more,
    )
    return _Server(config)


def tunnel(port: int) -> str:
    """The command that makes the demo reachable from another machine."""
    user = os.environ.get("USER") or "USER"
    return f"ssh -N -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}"
