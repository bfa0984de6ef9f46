"""The demo against requests that mean no good: each is answered with its status and a line, and
the server lives on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
import zlib

import pytest
from demorunning import TOKEN, photo

pytest.importorskip("fastapi", reason="demo needs FastAPI")

AUTH = {"X-OpenMAE-Token": TOKEN}
JSON = {**AUTH, "Content-Type": "application/json"}


def bomb() -> bytes:
    """A PNG of a few KB with 20,000 x 20,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        )

    size = (20000).to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + bytes([8, 0, 0, 0, 0]))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def ask(port: int, method: str, path: str, headers: dict[str, str | None], body=b""):
    """(status, headers, body) of a request that is sent as it is, and at once: a server that closes
    after a bad head resets the connection when a body comes later, and the answer may be lost.
    """
    own = {"Host": f"127.0.0.1:{port}"}
    own |= {"Content-Length": str(len(body))} if body or method == "POST" else {}
    lines = [f"{key}: {value}" for key, value in {**own, **headers}.items() if value is not None]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
    with socket.create_connection(("127.0.0.1", port), 30) as link:
        link.sendall(head + body)
        with http.client.HTTPResponse(link, method=method) as answer:
            answer.begin()
            return answer.status, dict(answer.getheaders()), answer.read()


def hiding(**more) -> bytes:
    return json.dumps({"image": 0, **more}).encode()


def traversal(*paths: str) -> list[tuple]:
    return [("GET", path, AUTH, b"", 404) for path in paths]


P = "PORT"
TABLE: list[tuple[str, str, dict, bytes, int]] = [
    ("GET", f"/?t={TOKEN}", {}, b"", 200),
    ("GET", "/", {"Cookie": f"openmae_demo_{P}={TOKEN}"}, b"", 200),
    ("GET", "/", AUTH, b"", 200),
    ("GET", "/api/model", AUTH, b"", 200),
    ("POST", "/api/reconstruct", JSON, hiding(), 200),
    ("POST", "/api/image", {**AUTH, "X-Name": "a.png"}, photo(), 200),
    # tokens
    ("GET", "/", {}, b"", 403),
    ("GET", "/?t=wrong", {}, b"", 403),
    ("GET", f"/?t={TOKEN[:-1]}", {}, b"", 403),
    ("GET", f"/?t={TOKEN}" + "&a=1" * 50, {}, b"", 403),
    ("GET", "/api/model", {}, b"", 403),
    ("GET", f"/api/model?t={TOKEN}", {}, b"", 403),
    ("GET", "/api/model", {"X-OpenMAE-Token": "\xff\xfe"}, b"", 403),
    ("GET", "/api/model", {"Cookie": f"openmae_demo_1={TOKEN}"}, b"", 403),
    ("GET", "/nowhere", {}, b"", 403),
    ("POST", "/api/image", {}, photo(), 403),
    # hosts and origins
    ("GET", "/api/model", {**AUTH, "Host": "evil.example"}, b"", 421),
    ("GET", "/api/model", {**AUTH, "Host": f"127.0.0.1.evil.example:{P}"}, b"", 421),
    ("GET", "/api/model", {**AUTH, "Host": "127.0.0.1@evil.example"}, b"", 421),
    ("GET", "/api/model", {**AUTH, "Host": "192.168.0.1"}, b"", 421),
    ("GET", "/api/model", {**AUTH, "Host": ""}, b"", 421),
    ("GET", "/api/model", {**AUTH, "Host": None}, b"", 400),
    ("GET", "/api/model", {**AUTH, "Host": "localhost:9000"}, b"", 200),  # a tunnel
    ("POST", "/api/reconstruct", {**JSON, "Origin": "http://evil.example"}, hiding(), 403),
    ("POST", "/api/reconstruct", {**JSON, "Origin": "null"}, hiding(), 403),
    ("POST", "/api/reconstruct", {**JSON, "Origin": "http://127.0.0.1:1"}, hiding(), 403),
    ("POST", "/api/reconstruct", {**JSON, "Origin": f"https://127.0.0.1:{P}"}, hiding(), 403),
    ("POST", "/api/reconstruct", {**JSON, "Origin": f"http://127.0.0.1:{P}"}, hiding(), 200),
    ("GET", "/api/model", {**AUTH, "Sec-Fetch-Site": "cross-site"}, b"", 403),
    ("GET", "/api/model", {**AUTH, "Sec-Fetch-Site": "same-site"}, b"", 403),
    # paths
    *traversal("/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd"),
    *traversal("/api/sample/..%2f..%2fetc%2fpasswd.png", "/api/sample/%252e%252e%252fx.png"),
    *traversal("/api/sample/..%5c..%5cx.png", "/api/sample/%c0%ae%c0%ae%2fx.png"),
    *traversal("/api/sample/....//....//x.png", "/api/neighbour/0.png", "/api/sample/5.png"),
    *traversal("/api/sample/-1.png", "/api/sample/0x1.png", "/api/sample/%D9%A3.png"),
    *traversal("/api/sample/" + "9" * 300 + ".png", "/docs", "/redoc", "/openapi.json"),
    *traversal("/explorer.js", "/.env", "/static/", "/api/model/"),
    # methods and sizes
    ("DELETE", "/api/model", AUTH, b"", 405),
    ("GET", "/api/reconstruct", AUTH, b"", 405),
    ("POST", "/", AUTH, b"", 405),
    ("TRACE", "/", AUTH, b"", 405),
    ("POST", "/api/image", {**AUTH, "Content-Length": str(10**9)}, b"x", 413),
    ("POST", "/api/reconstruct", {**JSON, "Content-Length": "70000"}, b"x", 413),
    ("POST", "/api/reconstruct", {**JSON, "Content-Length": "-1"}, b"x", 400),
    ("GET", "/api/model", {**AUTH, "X-Long": "x" * 40_000}, b"", 431),
    # files
    ("POST", "/api/image", AUTH, b"", 400),
    (
        "POST",
        "/api/image",
        AUTH,
        b"<svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>",
        400,
    ),
    ("POST", "/api/image", AUTH, b"<!doctype html><script>alert(1)</script>", 400),
    ("POST", "/api/image", AUTH, bomb(), 400),
    ("POST", "/api/image", AUTH, photo("JPEG")[:300], 400),
    ("POST", "/api/image", AUTH, photo()[:300], 400),
    ("POST", "/api/image", AUTH, b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.", 400),
    ("POST", "/api/image", AUTH, b"%PDF-1.7\n%%EOF", 400),
    # JSON
    ("POST", "/api/reconstruct", JSON, b"{", 422),
    ("POST", "/api/reconstruct", JSON, b"[" * 60_000, 400),
    ("POST", "/api/reconstruct", JSON, b"\xff\xfe", 422),
    ("POST", "/api/reconstruct", JSON, b"null", 422),
    ("POST", "/api/reconstruct", JSON, hiding(ratio=float("nan")), 422),
    ("POST", "/api/reconstruct", JSON, hiding(ratio=float("inf")), 422),
    ("POST", "/api/reconstruct", JSON, hiding(ratio=1.5), 422),
    ("POST", "/api/reconstruct", JSON, hiding(ratio="0.5; rm"), 422),
    ("POST", "/api/reconstruct", JSON, hiding(seed=-1), 422),
    ("POST", "/api/reconstruct", JSON, hiding(seed=2**60), 422),
    ("POST", "/api/reconstruct", JSON, hiding(path="/etc/passwd"), 422),
    ("POST", "/api/reconstruct", JSON, hiding(image="../../etc/passwd"), 422),
    ("POST", "/api/reconstruct", JSON, hiding(image=True), 422),
    ("POST", "/api/reconstruct", JSON, hiding(image=10**30), 422),
    ("POST", "/api/reconstruct", JSON, hiding(image="0" * 16), 404),
    ("POST", "/api/reconstruct", JSON, hiding(image=999), 404),
    ("POST", "/api/reconstruct", JSON, hiding(hidden=list(range(24))), 400),
    ("POST", "/api/reconstruct", JSON, hiding(hidden=[10**6]), 400),
    ("POST", "/api/reconstruct", JSON, hiding(hidden=[-1]), 422),
    ("POST", "/api/reconstruct", JSON, hiding(mask="__import__"), 400),
    ("POST", "/api/reconstruct", JSON, hiding(bands=[99]), 400),
    ("POST", "/api/reconstruct", JSON, hiding(step=15), 400),
    ("POST", "/api/attention", JSON, hiding(patch=24), 400),
    ("POST", "/api/neighbours", JSON, hiding(), 400),
]


@pytest.mark.parametrize("row", TABLE, ids=[f"{i}-{r[0]}-{r[4]}" for i, r in enumerate(TABLE)])
def test_each_request_has_its_status(row, running):
    method, path, headers, body, expected = row
    port = str(running.port)
    headers = {k: v if v is None else v.replace(P, port) for k, v in headers.items()}
    status, told, answer = ask(running.port, method, path, headers, body)
    assert status == expected, answer[:200]
    assert b"Traceback" not in answer
    assert b'File "' not in answer
    names = {key.lower(): value for key, value in told.items()}
    assert "server" not in names
    if expected == 400 and b"Invalid HTTP" in answer:
        return  # not even a request
    assert names["x-content-type-options"] == "nosniff"
    assert names["cache-control"] == "no-store"
    if expected >= 400:
        assert json.loads(answer)["error"]
        assert len(answer) < 500
        assert b"script>" not in answer


def test_the_table_is_long_enough_and_the_server_still_answers(running):
    assert len(TABLE) >= 40
    assert ask(running.port, "GET", "/api/model", AUTH)[0] == 200


def test_the_page_is_under_a_strict_policy_and_its_cookie_stays_here(running):
    status, headers, body = ask(running.port, "GET", f"/?t={TOKEN}", {})
    told = {k.lower(): v for k, v in headers.items()}
    assert status == 200
    assert f"openmae_demo_{running.port}={TOKEN}" in told["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert word in told["set-cookie"]
    assert "default-src 'none'" in told["content-security-policy"]
    assert "frame-ancestors 'none'" in told["content-security-policy"]
    assert "unsafe" not in told["content-security-policy"]
    assert TOKEN.encode() not in body


def test_a_body_without_length_is_cut_off(running):
    with socket.create_connection(("127.0.0.1", running.port), 30) as link:
        head = "POST /api/image HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        link.sendall(f"{head}X-OpenMAE-Token: {TOKEN}\r\n\r\n".encode())
        sent, part = 0, b"10000\r\n" + bytes(65536) + b"\r\n"
        with contextlib.suppress(OSError):
            while sent < 100 * 1024**2:
                link.sendall(part)
                sent += 65536
        assert sent < 40 * 1024**2
        with contextlib.suppress(ConnectionResetError):  # it closed while more was on its way
            assert link.recv(20).startswith(b"HTTP/1.1 413")


def slow(running, text: bytes, patience: float) -> tuple[bytes, float]:
    """What comes back, and after how long, when no more than `text` is sent."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", running.port), patience) as link:
        link.sendall(text)
        found = link.recv(1000)
    return found, time.monotonic() - begin


def test_a_slow_head_is_closed_and_a_slow_body_refused(running, monkeypatch):
    monkeypatch.setattr("openmae.report.demoguard.Patient.seconds", 0.3)
    found, seconds = slow(running, b"GET /api/model HTTP/1.1\r\nHost: 127", 10)
    assert found == b""
    assert seconds < 8
    assert slow(running, b"", 10)[0] == b""
    monkeypatch.setattr(running.guard, "seconds", 0.3)
    head = f"POST /api/image HTTP/1.1\r\nHost: 127.0.0.1\r\nX-OpenMAE-Token: {TOKEN}\r\n"
    found, _ = slow(running, f"{head}Content-Length: 1000\r\n\r\nabc".encode(), 10)
    assert found.startswith(b"HTTP/1.1 408")


def test_two_bodies_in_one_request_are_refused(running):
    head = f"POST /api/reconstruct HTTP/1.1\r\nHost: 127.0.0.1\r\nX-OpenMAE-Token: {TOKEN}\r\n"
    more = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    found, _ = slow(running, (head + more).encode(), 10)
    assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 422"))
