"""Who may talk to the demo, how much and how slowly: everything that comes before an answer.

A page of another site that the same browser shows must not reach it (Host, Origin, token in a
cookie of this site alone), and neither may a stranger on the network (token).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from uvicorn.protocols.http.h11_impl import H11Protocol

from openmae.loopback import LOOPBACK, host_of, name_of

MOST_UPLOAD = 20 * 1024**2
"""Bytes of an image."""

MOST_BODY = 64 * 1024
"""Bytes of every other request."""

BODY_SECONDS = 15.0
HEAD_SECONDS = 10.0
_HEAD = 16 * 1024  # bytes of headers
_BODIES = 4  # large ones that are read at a time
UPLOAD = "/api/image"
TOKEN_HEADER = "x-openmae-token"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class RefusedError(Exception):
    """A request that gets no further: its status, and a line for the one who sent it."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class Guard:
    """An ASGI application around another that checks each request and reads its body, bounded in
    size and time, before the other one sees it.

    Args:
        app: what answers.
        token: what a request has to know.
        cookie: its name in the browser.
        names: of hosts that the browser may have asked for.
        addresses: whether any numeric address is one as well (another site has a name).
    """

    def __init__(
        self,
        app: App,
        token: str,
        cookie: str,
        names: Iterable[str] = LOOPBACK,
        addresses: bool = False,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self.app, self.token, self.cookie = app, token, cookie
        self.names, self.addresses, self.seconds = set(names), addresses, seconds
        self.refused = 0
        self._bodies = asyncio.Semaphore(_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        large = scope["path"] == UPLOAD and scope["method"] == "POST"
        try:
            self._check(scope)
            if not large:
                body = await self._body(scope, receive, MOST_BODY)
                await self.app(scope, _given(body, receive), _with_headers(send))
                return
            if self._bodies.locked():
                raise RefusedError(503, "too many images at once", **{"retry-after": "2"})
            async with self._bodies:
                body = await self._body(scope, receive, MOST_UPLOAD)
                await self.app(scope, _given(body, receive), _with_headers(send))
        except RefusedError as refused:
            self.refused += 1
            await _answer(refused, _with_headers(send))

    def _check(self, scope: Scope) -> None:
        if sum(len(key) + len(value) for key, value in scope["headers"]) > _HEAD:
            raise RefusedError(431, "too many or too long headers", connection="close")
        headers: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        host = self._host(headers)
        origins = headers.get("origin", [])
        if len(origins) > 1 or any(host_of(o) != host for o in origins):
            raise RefusedError(403, "a page of another site may not use this")
        if headers.get("sec-fetch-site", ["none"])[0] not in ("same-origin", "none"):
            raise RefusedError(403, "a page of another site may not use this")
        if not any(hmac.compare_digest(t.encode(), self.token.encode()) for t in self._tokens(
            scope, headers
        )):  # fmt: skip
            raise RefusedError(403, "open the address that `openmae demo` printed, with its token")

    def _host(self, headers: dict[str, list[str]]) -> str:
        """The host and port that the request is for, if that is us."""
        hosts = headers.get("host", [])
        name = name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self.names or (self.addresses and _is_address(name))):
            raise RefusedError(421, "this is not the host that was asked for")
        return hosts[0].lower()

    def _tokens(self, scope: Scope, headers: dict[str, list[str]]) -> list[str]:
        """What a request gives as token: a header, a cookie, or in the address of the page."""
        found = list(headers.get(TOKEN_HEADER, []))
        for line in headers.get("cookie", []):
            try:
                found += [m.value for k, m in SimpleCookie(line).items() if k == self.cookie]
            except CookieError:
                continue
        if scope["path"] == "/" and scope["method"] == "GET":
            query = scope["query_string"].decode("latin-1")
            found += parse_qs(query, max_num_fields=8).get("t", []) if query.count("&") < 8 else []
        return found

    async def _body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        """The whole body.

        Raises:
            RefusedError: it is too large or too slow.
        """
        for key, value in scope["headers"]:
            if key == b"content-length" and (not value.isdigit() or int(value) > most):
                raise RefusedError(413, f"more than {most:,} bytes", connection="close")
        try:
            return await asyncio.wait_for(_read(receive, most), self.seconds)
        except TimeoutError:
            raise RefusedError(408, "the request came too slowly", connection="close") from None


async def _read(receive: Receive, most: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request broke off", connection="close")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise RefusedError(413, f"more than {most:,} bytes", connection="close")
        if not message.get("more_body", False):
            return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already."""
    left = [body]

    async def give() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return give


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {key for key, _ in message.get("headers", [])}
            more = [pair for pair in HEADERS if pair[0] not in own]
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return sending


async def _answer(refused: RefusedError, send: Send) -> None:
    body = json.dumps({"error": refused.text}).encode()
    headers = [(k.encode(), v.encode()) for k, v in refused.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1, which by itself waits for ever for the head of a request, and here for
    `HEAD_SECONDS`.
    """

    _late: asyncio.TimerHandle | None = None
    seconds = HEAD_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answering():
            self._calm()
        elif self._late is None:
            self._expect()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        self._late = self.loop.call_later(self.seconds, self._close)

    def _calm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self._answering() and not self.transport.is_closing():
            self.transport.close()
