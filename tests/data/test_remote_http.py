"""Archives on a web server of this computer's own loopback."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from archives import folder, paths, photos, same, tar, zipped

from openmae.data import remote
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform
from openmae.errors import DataError, StorageError


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch) -> list[float]:
    """No waiting; the waits that there would have been."""
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    return waits


@pytest.fixture
def whole(tmp_path):
    return open_source(str(folder(tmp_path / "folder", photos())))


def said(words: str, error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as found:
        open_source(words)
    assert len(str(found.value).splitlines()) <= 4
    return str(found.value)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; answers ranges unless `deaf`."""

    files: dict[str, bytes]
    deaf = False
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, _, query = self.path.partition("?")
        data = self.files.get(path)
        self.asked.append(self.path)
        if data is None or ("secret" in path and query != "token=abc"):
            self.send_error(404 if data is None else 403)
            return
        found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found and not self.deaf:
            start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    data = tar(tmp_path / "t.tar", photos()).read_bytes()
    packed = zipped(tmp_path / "x.zip", photos()).read_bytes()
    Handler.files = {"/x.tar": data, "/x.zip": packed, "/secret.tar": data, "/cut.tar": data[:900]}
    Handler.deaf, Handler.asked = False, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_over_http(server, whole, name):
    source = open_source(f"{server}/{name}")
    assert same(source, whole)
    assert paths(source)[4] == f"{name}/a/00.png"
    batches = TrainBatches(source, TrainTransform((8, 8), seed=0), seed=0, global_batch=8)
    for number, batch in enumerate(loader(batches, range(2), 2)):
        assert batch["bad"] == []
        assert (batch["image"] == batches[number]["image"]).all()


def test_a_server_without_ranges_is_refused(server):
    Handler.deaf = True
    assert said(f"{server}/x.tar") == (
        f"{server}/x.tar: the server does not answer byte ranges. Download it first"
    )


def test_errors_over_http(server, quick):
    assert said(f"{server}/gone.tar") == f"{server}/gone.tar does not exist"
    assert "access is refused" in said(f"{server}/secret.tar?token=wrong")
    assert "token" not in said(f"{server}/secret.tar?token=wrong")
    assert "web servers have no folders" in said(f"{server}/*.tar")
    assert quick == []
    assert "cut.tar is broken" in said(f"{server}/cut.tar")
    source = open_source(f"{server}/secret.tar?token=abc")
    assert source.name == f"{server}/secret.tar"
    assert paths(source)[4] == "secret.tar/a/00.png"


def test_a_server_that_is_away(quick):
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageError, match=f"http://127.0.0.1:{port}/x.tar cannot be reached"):
        open_source(f"http://127.0.0.1:{port}/x.tar")
    assert quick == list(remote.WAITS)
