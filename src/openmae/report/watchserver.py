"""Serves a page that keeps itself up to date: to this computer alone, to whom knows the token.

Only GET, only two addresses, nothing of a request is a path. Another site that the browser shows
cannot read it: the name of the host must be this computer's, and the token is not known there.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from openmae.loopback import LOOPBACK, host_of, name_of
from openmae.report.html import frame
from openmae.report.runpage import STYLE

_MOST = 24  # requests at a time
_SECONDS = 10.0  # that a request may take to be said
_ZIPPED = 4096  # bytes from which an answer is packed: it may go through a tunnel
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

SCRIPT = """
'use strict';
const parts = document.getElementById('parts'), lead = document.getElementById('lead');
const live = document.getElementById('live'), every = 1000 * Number(live.dataset.every);
let version = live.dataset.version, missed = 0;
const key = e => (e.closest('figure, section') || parts).id + '/' + e.textContent;
const boxes = () => [...parts.querySelectorAll('.scroll, .strip')];
function put(told) {
  const open = new Set([...parts.querySelectorAll('details[open] > summary')].map(key));
  const at = boxes().map(e => [e.scrollLeft, e.scrollTop]), y = scrollY;
  const near = document.activeElement, kept = parts.contains(near) ? key(near) : null;
  const index = kept === null ? -1 : boxes().indexOf(near);
  document.querySelector('h1').textContent = told.title;
  lead.innerHTML = told.lead; parts.innerHTML = told.body; document.title = told.title;
  for (const e of parts.querySelectorAll('summary')) {
    if (open.has(key(e))) e.parentElement.open = true;
    if (kept !== null && key(e) === kept) e.focus({preventScroll: true});
  }
  boxes().forEach((e, i) => { if (at[i]) { [e.scrollLeft, e.scrollTop] = at[i]; } });
  if (index >= 0 && boxes()[index]) boxes()[index].focus({preventScroll: true});
  scrollTo(0, y);
}
async function look() {
  try {
    const query = new URLSearchParams(location.search);
    query.set('v', version);
    const told = await (await fetch('part?' + query)).json();
    if (!told.same) { put(told); version = told.v; }
    if (missed || !told.same) live.textContent = told.live;
    missed = 0;
  } catch (error) {
    missed += 1;
    if (missed === 2) live.textContent = 'No answer: the watch has ended, or the tunnel.';
  }
  setTimeout(look, every * Math.min(1 + missed, 6));
}
setTimeout(look, every);
"""


class Live:
    """A page made anew when it is asked for, at most every so many seconds; never twice at once.

    Args:
        make: returns title, lead and body.
        every: seconds.
    """

    def __init__(self, make: Callable[[], tuple[str, str, str]], every: float) -> None:
        self.make, self.every = make, every
        self._lock, self._at = threading.Lock(), float("-inf")
        self._told: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        """title, lead, body, v (its version) and live (a line about this page)."""
        with self._lock:
            if time.monotonic() - self._at >= self.every:
                title, lead, body = self.make()
                version = hashlib.sha256(f"{title}\0{lead}\0{body}".encode()).hexdigest()[:16]
                if self._told.get("v") != version:
                    said = f"Looks every {self.every:g} s. Newest at {time.strftime('%H:%M:%S')}."
                    told = {"title": title, "lead": lead, "body": body}
                    self._told = {**told, "v": version, "live": said}
                self._at = time.monotonic()
            return self._told

    def page(self) -> str:
        """The whole page, with the script that keeps it up to date."""
        told = self.now()
        lead = (
            f'<div id="lead">{told["lead"]}</div><p id="live" role="status" data-every='
            f'"{self.every:g}" data-version="{told["v"]}">{told["live"]}</p>'
        )
        body = f'<div id="parts">{told["body"]}</div>'
        return frame(told["title"], lead, body, STYLE, SCRIPT)


class WatchServer(ThreadingHTTPServer):
    """Answers on the loopback address; `url` is what to open."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, live: Live, port: int, token: str | None = None) -> None:
        self.live, self.token = live, token or secrets.token_urlsafe(24)
        self._free = threading.BoundedSemaphore(_MOST)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """The address with its token."""
        return f"http://127.0.0.1:{self.server_address[1]}/?t={self.token}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each request, as long as there are not too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What that thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody went away in the middle of an answer: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    server_version, sys_version = "openmae", ""
    timeout = _SECONDS

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method but GET
            return self._not_allowed
        raise AttributeError(name)

    def do_GET(self) -> None:
        """The page, or what is new of it."""
        if not self._is_here():
            return
        path, given = _asked(self.path)
        if path not in ("/", "/part"):
            self._say(404, b"not found\n")
            return
        token = given.get("t", [""])[0].encode()
        if not hmac.compare_digest(token, self.server.token.encode()):
            self._say(403, b"the address that openmae watch printed has a token: use all of it\n")
            return
        try:
            if path == "/":
                self._say(200, self.server.live.page().encode(), "text/html; charset=utf-8")
                return
            told = self.server.live.now()
            same = given.get("v") == [told["v"]]
            answer = {"same": True, "live": told["live"]} if same else {"same": False, **told}
            self._say(200, json.dumps(answer).encode(), "application/json")
        except OSError:
            raise
        except Exception:  # the page could not be made: no traceback goes out
            self._say(500, b"the page could not be made\n")
            raise

    def _is_here(self) -> bool:
        """Whether this computer was asked for by one of its own names."""
        name, origin = name_of(self.headers.get("Host", "")), self.headers.get("Origin")
        if name not in LOOPBACK:
            self._say(421, b"only for this computer\n")
        elif origin is not None and name_of(host_of(origin) or "") not in LOOPBACK:
            self._say(403, b"only for this computer\n")
        else:
            return True
        return False

    def _not_allowed(self) -> None:
        if self._is_here():
            self._say(405, b"only GET\n", more={"Allow": "GET"})

    def _say(
        self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8",
        more: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        packed = len(body) > _ZIPPED and "gzip" in self.headers.get("Accept-Encoding", "")
        body = gzip.compress(body, 3) if packed else body
        self.send_response(status)
        told = {**_HEADERS, **({"Content-Encoding": "gzip"} if packed else {}), **(more or {})}
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **told}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the token would be in the log."""


def _asked(line: str) -> tuple[str, dict[str, list[str]]]:
    """The path and the query of a request; neither where they are odd."""
    path, _, query = line.partition("?")
    try:
        return path, parse_qs(query, max_num_fields=8) if len(query) < 1000 else {}
    except ValueError:
        return path, {}
