"""The demo as a server: one inference at a time, in order; memory does not grow; how it ends."""

from __future__ import annotations

import gc
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from demorunning import TOKEN, Running, photo

from openmae.errors import StorageError
from openmae.report.explorer import Ask

fastapi = pytest.importorskip("fastapi", reason="demo needs FastAPI")
JSON = {"X-OpenMAE-Token": TOKEN, "Content-Type": "application/json"}


def post(port: int, value: dict, path: str = "/api/reconstruct") -> tuple[int, dict, dict]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        link.request("POST", path, json.dumps(value), JSON)
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        link.close()


def memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_requests_at_once_are_answered_or_refused(running, monkeypatch):
    explorer = running.desk.explorer
    inner = explorer.reconstruct
    monkeypatch.setattr(explorer, "reconstruct", lambda ask: (time.sleep(0.02), inner(ask))[1])
    post(running.port, {"image": 0})
    gc.collect()
    before = memory()
    expected = inner(Ask(0, seed=3))["mse"]
    for _ in range(2):
        with ThreadPoolExecutor(100) as pool:
            found = list(
                pool.map(lambda i: post(running.port, {"image": 0, "seed": 3}), range(100))
            )
        codes = [status for status, _, _ in found]
        assert set(codes) == {200, 503}
        assert codes.count(200) >= 9  # one that runs and eight that wait, at the least
        for status, headers, body in found:
            if status == 200:
                assert body["mse"] == expected
            else:
                assert headers["retry-after"] == "1"
                assert "busy" in body["error"]
    gc.collect()
    assert memory() - before < 60e6
    assert post(running.port, {"image": 0, "seed": 3})[0] == 200


def test_one_at_a_time_in_the_order_of_arrival(explore):
    explorer = explore()
    running, order, at_once, now = Running(explorer), [], [], []
    inner = explorer.reconstruct

    def watched(ask: Ask):
        now.append(ask.seed)
        at_once.append(len(now))
        time.sleep(0.1)
        order.append(ask.seed)
        now.remove(ask.seed)
        return inner(ask)

    explorer.reconstruct = watched
    try:
        threads = []
        for seed in range(11):
            one = threading.Thread(
                target=lambda s=seed: post(running.port, {"image": 0, "seed": s})
            )
            one.start()
            threads.append(one)
            time.sleep(0.02)
        for one in threads:
            one.join()
    finally:
        running.close()
    assert max(at_once) == 1
    assert order == sorted(order)
    assert 9 <= len(order) <= 11


def test_uploads_do_not_pile_up(running):
    data = photo(size=(300, 450))
    link = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    before = 0
    for number in range(60):
        link.request("POST", "/api/image", data, {"X-OpenMAE-Token": TOKEN})
        answer = link.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["id"]) == 16
        before = memory() if number == 20 else before
    link.close()
    assert len(running.desk.explorer._uploads) == 32
    assert memory() - before < 30e6


def test_the_api_by_the_client_of_fastapi(explore):
    testclient = pytest.importorskip("fastapi.testclient", reason="needs httpx")
    from openmae.report import demoserver

    desk = demoserver.Desk(explore())
    app = demoserver.guarded(desk, TOKEN, 7861, "127.0.0.1")
    try:
        client = testclient.TestClient(app, base_url="http://127.0.0.1:7861")
        assert client.get("/api/model").status_code == 403
        assert client.get(f"/?t={TOKEN}").status_code == 200
        assert client.get("/api/model").json()["samples"] == 5  # the cookie
        found = client.get("/api/sample/0.png")
        assert found.headers["content-type"] == "image/png"
        answer = client.post("/api/attention", json={"image": 0, "patch": 3}).json()
        assert np.shape(answer["heads"]) == (2, 24)
        total = np.sum(answer["heads"], axis=1) + answer["prefix"]
        np.testing.assert_allclose(total, 1, atol=1e-4)
    finally:
        desk.close()


def test_a_bug_is_told_without_its_traceback(explore, capfd):
    explorer = explore()

    def broken(ask):
        raise ZeroDivisionError("secret path /home/somebody")

    explorer.reconstruct = broken
    running = Running(explorer)
    try:
        status, _, body = post(running.port, {"image": 0})
    finally:
        running.close()
    assert status == 500
    assert "secret" not in str(body)
    assert "Traceback" not in str(body)


def test_names_of_uploads_are_only_names(running):
    link = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    names = {
        "..%2F..%2Fetc%2Fpasswd": "passwd",
        "C%3A%5Cx%5Cy.png": "y.png",
        "%00%0a..": "image",
        "": "image",
        "a%20b.png": "a b.png",
        "--out.png": "--out.png",
    }
    for sent, name in names.items():
        headers = {"X-OpenMAE-Token": TOKEN, "X-Name": sent}
        link.request("POST", "/api/image", photo(), headers)
        told = json.loads(link.getresponse().read())
        assert told["name"] == name
        command = post(running.port, {"image": told["id"]})[2]["command"]
        assert f" {name} " in command or f"'{name}'" in command or f"./{name}" in command
    link.close()
    assert " ./--out.png " in command


def test_a_port_in_use_is_said():
    from openmae.report import demoserver

    with demoserver.listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(StorageError, match=rf"port {port} .* --port 0"):
            demoserver.listen("127.0.0.1", port)


def test_other_hosts_where_the_network_may_come(explore):
    from openmae.report import demoguard, demoserver

    desk = demoserver.Desk(explore())
    try:
        near = demoserver.guarded(desk, TOKEN, 1, "127.0.0.1")
        far = demoserver.guarded(desk, TOKEN, 1, "0.0.0.0")
    finally:
        desk.close()
    for host, own, remote in (
        ("127.0.0.1:7861", True, True),
        ("localhost", True, True),
        ("[::1]:7861", True, True),
        ("192.168.1.7:7861", False, True),
        ("evil.example", False, False),
    ):
        for guard, expected in ((near, own), (far, remote)):
            asked = {"host": [host]}
            if expected:
                assert guard._host(asked) == host
            else:
                with pytest.raises(demoguard.RefusedError):
                    guard._host(asked)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_command_prints_its_address_and_ends_with_zero(number, demo_run, pictures):
    words = ["demo", str(demo_run), str(pictures), "--port", "0", "--device", "cpu"]
    child = subprocess.Popen(
        [sys.executable, "-m", "openmae", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        said = b""
        while b"Ctrl-C" not in said:
            assert select.select([child.stdout], [], [], 90)[0], said
            said += (part := os.read(child.stdout.fileno(), 4096))
            assert part, child.communicate()[1]
        port, token = re.search(rb"http://127\.0\.0\.1:(\d+)/\?t=([\w-]{32})", said).groups()
        assert b"ssh -N -L " + port + b":127.0.0.1:" + port in said
        link = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        link.request("GET", "/api/model", headers={"X-OpenMAE-Token": token.decode()})
        assert json.loads(link.getresponse().read())["samples"] == 5
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
        assert (child.returncode, err) == (0, b"")
        assert b"1 answers" in out
    finally:
        child.kill()
        child.wait()
