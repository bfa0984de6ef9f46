"""Archives elsewhere: in memory, and on a web server of this computer's own loopback."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from archives import folder, paths, photos, png, same, tar, zipped

from openmae.data import remote
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.errors import DataError, StorageError, UsageError


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch) -> list[float]:
    """No waiting; the waits that there would have been."""
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    return waits


@pytest.fixture
def memory(tmp_path) -> Iterator[fsspec.AbstractFileSystem]:
    """Two shards and a zip of the same images, and nothing else."""
    fs = fsspec.filesystem("memory")
    items = list(photos().items())
    for number, part in enumerate((dict(items[:5]), dict(items[5:]))):
        data = tar(tmp_path / "t.tar", part).read_bytes()
        fs.pipe_file(f"/bucket/s/00{number}.tar", data)
    fs.pipe_file("/bucket/x.zip", zipped(tmp_path / "x.zip", photos()).read_bytes())
    fs.pipe_file("/bucket/one.tar", tar(tmp_path / "t.tar", photos()).read_bytes())
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def whole(tmp_path):
    return open_source(str(folder(tmp_path / "folder", photos())))


def said(words: str, error: type[Exception] = DataError) -> str:
    with pytest.raises(error) as found:
        open_source(words)
    assert len(str(found.value).splitlines()) <= 4
    return str(found.value)


# In memory.


@pytest.mark.parametrize(
    "words",
    [
        "one.tar",
        "x.zip",
        "s",
        "s/",
        "s/*.tar",
        "s/{000..001}.tar",
        "s/00{0,1}.tar",
        "{s,s}/00?.tar",
    ],
)
def test_the_same_images(memory, whole, words):
    source = open_source(f"memory://bucket/{words}")
    assert same(source, whole)
    assert source.name == f"memory://bucket/{words}"
    name = {"one.tar": "one.tar", "x.zip": "x.zip"}.get(words, "000.tar")
    assert paths(source)[4] == f"{name}/a/00.png"
    assert list(source.listing())[4] == f"{name}/a/00.png\t{len(png(0))}"


def test_the_index_is_kept_until_the_file_changes(memory, monkeypatch, tmp_path):
    first = open_source("memory://bucket/one.tar")
    calls = []
    read = remote.read
    monkeypatch.setattr(remote, "read", lambda *a: calls.append(a) or read(*a))
    assert len(open_source("memory://bucket/one.tar")) == len(first)
    assert calls == []
    memory.pipe_file("/bucket/one.tar", tar(tmp_path / "t.tar", photos(3)).read_bytes())
    assert len(open_source("memory://bucket/one.tar")) == 3
    assert calls


@pytest.mark.parametrize("words", ["s", "x.zip"])
def test_loader_processes_read_the_same(memory, words):
    source = open_source(f"memory://bucket/{words}")
    batches = TrainBatches(source, TrainTransform((8, 8), seed=0), seed=0, global_batch=8)
    for number, batch in enumerate(loader(batches, range(3), 2)):
        assert batch["bad"] == []
        assert (batch["image"] == batches[number]["image"]).all()


def test_only_the_bytes_of_an_image_are_read(memory, monkeypatch):
    source = open_source("memory://bucket/one.tar")
    asked = []
    read = type(memory).cat_file

    def watched(self, path, start=None, end=None, **more):
        asked.append((start, end))
        return read(self, path, start, end, **more)

    monkeypatch.setattr(type(memory), "cat_file", watched)
    source[3]
    start = int(source.offsets[3])
    assert asked == [(start, start + int(source.sizes[3]))]


# What is said.


def test_what_is_not_there(memory):
    assert said("memory://bucket/gone.tar") == "memory://bucket/gone.tar does not exist"
    assert "memory://bucket/s/002.tar does not exist" in said("memory://bucket/s/{000..002}.tar")
    assert said("memory://nowhere/") == "memory://nowhere/ holds no .tar files. Check the name"
    assert "holds no .tar files" in said("memory://bucket/s/x*.tar")


def test_broken_and_compressed(memory, tmp_path):
    data = tar(tmp_path / "t.tar", photos()).read_bytes()
    memory.pipe_file("/bucket/cut.tar", data[:3000])
    assert said("memory://bucket/cut.tar").startswith("cut.tar is broken at byte")
    memory.pipe_file("/bucket/x.tar.gz", b"\x1f\x8b")
    assert "allows no random access" in said("memory://bucket/x.tar.gz")


@pytest.mark.parametrize(
    "words",
    [
        "ftp://host/x.tar",
        "file:///etc/x.tar",
        "github://a:b@/x.tar",
        "simplecache::s3://bucket/x.tar",
        "zip://a.tar::http://host/x.zip",
        "s3://bucket/x.tar::http://host",
        "https://host/https://other/x.tar",
    ],
)
def test_other_protocols_are_refused(words, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("contacted"))
    text = said(words)
    assert "not a path that is read. One of: s3:// gs://" in text or "does not exist" in text


def test_a_pipe_is_never_run(tmp_path):
    text = said(f"pipe:touch {tmp_path}/ran ; cat x.tar")
    assert "commands are not run" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("words", "package"), [("s3://b/x.tar", "s3fs"), ("gs://b", "gcsfs")])
def test_a_missing_package_is_named(words, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    text = said(words, UsageError)
    assert text == f"{words.split(':')[0]}:// needs {package}: pip install {package}"


class ClientError(Exception):
    """As a protocol's package may raise."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "words", "tries"),
    [
        (PermissionError("Forbidden"), "access is refused (Forbidden)", 1),
        (NoCredentialsError("Unable to locate credentials"), "access is refused", 1),
        (ClientError("denied", 403), "access is refused", 1),
        (ClientError("gone", 404), "does not exist", 1),
        (FileNotFoundError("x"), "does not exist", 1),
        (TimeoutError(), "cannot be reached: TimeoutError. Tried 4 times: is the network", 4),
        (OSError("Name or service not known"), "cannot be reached: Name or service", 4),
        (ClientError("try later", 503), "cannot be reached: try later", 4),
    ],
)
def test_errors_of_reading(memory, monkeypatch, quick, error, words, tries):
    source = open_source("memory://bucket/one.tar")
    calls = []

    def fails(*_, **__):
        calls.append(1)
        raise error

    monkeypatch.setattr(type(memory), "cat_file", fails)
    kind = StorageError if tries > 1 else DataError
    with pytest.raises(kind, match=re.escape(words)):
        source[0]
    assert len(calls) == tries
    assert quick == list(remote.WAITS[: tries - 1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lost_network_ends_a_run_and_replaces_no_image(memory, monkeypatch, quick, workers):
    source = open_source("memory://bucket/one.tar", Decoding(3))

    def fails(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(type(memory), "cat_file", fails)
    batches = TrainBatches(source, TrainTransform((8, 8)), 0, 4)
    with pytest.raises(StorageError, match=r"^memory://bucket/one.tar cannot be reached") as error:
        next(loader(batches, range(2), workers))
    assert len(str(error.value).splitlines()) == 1


def test_a_short_failure_is_tried_again(memory, monkeypatch, quick):
    source = open_source("memory://bucket/one.tar")
    wanted, read, calls = source[5]["image"], type(memory).cat_file, []

    def fails_twice(self, *args, **more):
        calls.append(1)
        if len(calls) < 3:
            raise OSError("Connection reset by peer")
        return read(self, *args, **more)

    monkeypatch.setattr(type(memory), "cat_file", fails_twice)
    assert (source[5]["image"] == wanted).all()
    assert quick == [0.25, 0.5]


def test_nothing_is_contacted_for_local_words(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("contacted"))
    monkeypatch.setattr(remote, "_at", lambda *_: pytest.fail("a remote path"))
    tar(tmp_path / "s3" / "x.tar", photos())
    assert len(open_source(str(tmp_path / "s3" / "x.tar"))) == 12
    assert len(open_source(str(tmp_path / "s3"))) == 12
    assert Path(tmp_path / "s3").exists()
