"""`openmae watch`: to this computer alone, to whom knows the token, and only the page."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from pages import sound
from run_folders import jsonl, row, run_folder

from openmae.cli import main
from openmae.report.watchserver import Live, WatchServer
from openmae.tasks.watch import Watched

TOKEN = "right-token"


@pytest.fixture
def server(tmp_path) -> Iterator[WatchServer]:
    run_folder(tmp_path / "run", "running")
    with WatchServer(Live(Watched([tmp_path / "run"], "auto"), 0.0), 0, TOKEN) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: WatchServer, path: str, method: str = "GET", body: bytes | None = None, **headers):
    """Status, headers and body of an answer."""
    port = server.server_address[1]
    with_host = {
        "Host": f"127.0.0.1:{port}",
        **{n.replace("_", "-"): v for n, v in headers.items()},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in with_host.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


REFUSED = [
    ("/", {}, 403), ("/?t=", {}, 403), ("/?t=wrong", {}, 403), ("/part", {}, 403),
    (f"/?t={TOKEN}x", {}, 403), (f"/?t=x&t={TOKEN}", {}, 403), (f"/?T={TOKEN}", {}, 403),
    (f"/?t={TOKEN}&" + "x=1&" * 20, {}, 403), (f"/?t={TOKEN}&x=" + "y" * 2000, {}, 403),
    ("/?t=%ff%fe", {}, 403), (f"/{TOKEN}", {}, 404),
    (f"/../../etc/passwd?t={TOKEN}", {}, 404), (f"/%2e%2e/%2e%2e/etc/passwd?t={TOKEN}", {}, 404),
    (f"/..%2fconfig.yaml?t={TOKEN}", {}, 404), (f"/%252e%252e/x?t={TOKEN}", {}, 404),
    (f"/..\\..\\x?t={TOKEN}", {}, 404), (f"//etc/passwd?t={TOKEN}", {}, 404),
    (f"/config.yaml?t={TOKEN}", {}, 404), (f"/part/?t={TOKEN}", {}, 404),
    (f"/favicon.ico?t={TOKEN}", {}, 404), (f"/%00?t={TOKEN}", {}, 404),
    (f"/?t={TOKEN}", {"Host": "evil.example"}, 421), (f"/?t={TOKEN}", {"Host": ""}, 421),
    (f"/?t={TOKEN}", {"Host": "127.0.0.1.evil.example"}, 421),
    (f"/?t={TOKEN}", {"Host": "192.168.0.7:80"}, 421), (f"/?t={TOKEN}", {"Host": "[::1"}, 421),
    (f"/?t={TOKEN}", {"Host": "0.0.0.0"}, 421), (f"/?t={TOKEN}", {"Host": "a@evil:1"}, 421),
    (f"/?t={TOKEN}", {"Origin": "https://evil.example"}, 403),
    (f"/?t={TOKEN}", {"Origin": "null"}, 403),
]  # fmt: skip


@pytest.mark.parametrize(("path", "headers", "status"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(server, path, headers, status):
    found, _, body = ask(server, path, **headers)
    assert found == status
    assert len(body) < 200
    assert b"Traceback" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"])
def test_only_get(server, method):
    status, headers, _ = ask(server, f"/?t={TOKEN}", method, b"x" if method == "POST" else None)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "localhost:7861", "[::1]:80"])
def test_a_tunnel_with_another_port_is_served(server, host):
    status, headers, body = ask(server, f"/?t={TOKEN}", Host=host)
    assert status == 200
    for name in ("Cache-Control", "X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy"):
        assert name in headers
    page = sound(body.decode(), scripts=1)
    assert "Running, at step 500" in page.words
    assert TOKEN not in body.decode()


def test_the_part_is_new_only_when_something_is(server, tmp_path):
    def part(version: str):
        return json.loads(ask(server, f"/part?t={TOKEN}&v={version}")[2])

    first = part("")
    assert not first["same"]
    assert part(first["v"]) == {"same": True, "live": first["live"]}
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(510)) + "\n")
    second = part(first["v"])
    assert second["v"] != first["v"]
    assert "at step 510" in second["lead"]


def test_a_large_answer_is_packed_when_asked(server):
    plain = ask(server, f"/?t={TOKEN}")[2]
    _, headers, body = ask(server, f"/?t={TOKEN}", Accept_Encoding="gzip, br")
    assert headers["Content-Encoding"] == "gzip"
    assert len(gzip.decompress(body)) == len(plain) > 3 * len(body)


def test_nothing_is_written_and_many_may_ask(server, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    answers: list[int] = []

    def one() -> None:
        try:
            answers.append(ask(server, f"/part?t={TOKEN}")[0])
        except (OSError, http.client.HTTPException):
            answers.append(0)  # refused: too many at a time

    threads = [threading.Thread(target=one) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(200) + answers.count(0) == 60
    assert answers.count(200) >= 20
    assert ask(server, f"/?t={TOKEN}")[0] == 200
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_silent_connections_do_not_stop_others(server):
    port = server.server_address[1]
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    for one in held:
        one.sendall(b"GET / HTTP/1.1\r\nHost: ")
    assert ask(server, f"/?t={TOKEN}")[0] == 200
    for one in held:
        one.close()


def test_a_run_that_begins_later(tmp_path):
    make = Watched([tmp_path / "run", tmp_path / "other"], "auto")
    title, lead, body = make()
    assert title == "Waiting for a run"
    assert lead.count("no run has begun there") == 2
    assert body == ""
    run_folder(tmp_path / "run", "running")
    title, lead, body = make()
    assert title == "run: running"
    assert "other" in lead
    assert "<svg" in body
    jsonl(tmp_path / "run/metrics.jsonl", [])
    assert make()[0] == "run: running"


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    words = [sys.executable, "-m", "openmae", "watch", str(tmp_path / "run"), "--every", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = "".join(process.stdout.readline() for _ in range(4))
            url = re.search(r"http://127\.0\.0\.1:(\d+)(/\?t=\S{20,})", said)
            assert f"ssh -N -L {url[1]}:127.0.0.1:{url[1]} " in said
            assert "is not there yet" in said
            connection = http.client.HTTPConnection("127.0.0.1", int(url[1]), timeout=20)
            connection.request("GET", url[2])
            assert "Waiting for" in connection.getresponse().read().decode()
            connection.close()
            time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
        assert "Ended" in process.stdout.read()


def test_mistakes_get_a_line(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.docx").write_text("work")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, code, part in (
            ([tmp_path / "mine"], 3, "no run folder"),
            ([tmp_path / "no/where"], 3, "does not exist"),
            ([tmp_path / "new", "--port", port], 2, f"--port {port}"),
            ([tmp_path / "new", "--every", 0], 2, "--every"),
        ):
            assert main(["watch", *map(str, words)]) == code
            said = capsys.readouterr().err
            assert part in said
            assert len(said.splitlines()) == 1
