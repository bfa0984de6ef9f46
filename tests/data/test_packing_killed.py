"""kill -9 at every step of a packer, then the same again: the same bytes as an unbroken pack."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data.pack_files import content, make_set, pack
from PIL import Image

from openmae.data import packing, shardwriter
from openmae.data.packed import PackedSource
from openmae.data.packindex import BAD, INDEX, UNFINISHED
from openmae.data.packing import Packer
from openmae.data.packjob import job_of, state_of
from openmae.data.records import Form
from openmae.data.sources import open_source
from openmae.errors import DataError, StorageError, UsageError

FORM = Form("lossless", 0, 0, 10_000)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A set with one file that cannot be read."""
    root = make_set("rgb", tmp_path_factory.mktemp("killed") / "rgb", 24)
    (root / "cat/5.png").write_bytes(b"text")
    return root


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "p"
    source = pack(open_source(str(photos)), out, shard_bytes=FORM.shard_bytes)
    assert len(source.index.shards) >= 3
    assert len(source) == 23
    return content(out)


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch):
    """kill -9 loses nothing that was written; `test_what_is_renamed...` looks after fsync."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def run(photos: Path, out: Path) -> None:
    """Whatever is left of packing: as the command does."""
    source = open_source(str(photos))
    job = job_of(source, FORM)
    if state_of(out, job) == "done":
        packing.tidy(out)
        return
    packer = Packer(source, out, FORM, job)
    with packer.locked():
        packer.begin()
        packer.write(0, lambda: None, lambda images, size: None)
        packer.check()
        packer.finish()


@contextlib.contextmanager
def counted(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the number of each call that changes the disk, before it."""
    count, opened = 0, Path.open
    names = ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "open"))
    before = [(place, name, getattr(place, name)) for place, name in names]

    def wrapped(call):
        def inner(*args, **more):
            nonlocal count
            if call is not opened or "w" in (*args, *more.values()) or "wb" in args:
                act(count)
                count += 1
            return call(*args, **more)

        return inner

    try:
        for place, name, call in before:
            setattr(place, name, wrapped(call))
        yield
    finally:
        for place, name, call in before:
            setattr(place, name, call)


def killed_at(photos: Path, out: Path, number: int) -> bool:
    """Pack in a process that is killed before the call of that number; whether it was."""
    child = os.fork()
    if not child:
        with counted(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == number else None):
            run(photos, out)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_then_continued(photos, unbroken, tmp_path):
    number = 0
    while killed_at(photos, tmp_path / str(number), number):
        out = tmp_path / str(number)
        source = open_source(str(photos))
        state = state_of(out, job_of(source, FORM))
        if (out / INDEX).exists():  # whole: it can be read before what is left is tidied up
            assert len(PackedSource(out)) == 23
            assert state == "done"
        elif (out / UNFINISHED).exists():
            with pytest.raises(DataError, match="not packed to the end"):
                open_source(str(out))
        run(photos, out)
        assert content(out) == unbroken, number
        number += 1
    assert number > 40


def test_killed_again_and_again(photos, unbroken, tmp_path):
    """Each start comes a little further, and none begins at the beginning."""
    starts = 0
    while killed_at(photos, tmp_path / "p", 25):
        starts += 1
        assert starts < 20
    assert starts >= 2
    assert content(tmp_path / "p") == unbroken


def test_an_error_of_the_disk_keeps_what_is_whole(photos, unbroken, tmp_path, monkeypatch):
    def full(self, row, record, formats):
        if row == 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        before(self, row, record, formats)

    before = shardwriter.ShardWriter.add
    monkeypatch.setattr(shardwriter.ShardWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        run(photos, tmp_path / "p")
    names = content(tmp_path / "p")
    assert "shard-00000.bin" in names
    assert not [name for name in names if name.startswith(".tmp")]
    monkeypatch.undo()
    run(photos, tmp_path / "p")
    assert content(tmp_path / "p") == unbroken


def test_what_is_renamed_is_on_the_disk_before(photos, tmp_path, monkeypatch):
    """And the rename itself before anything that comes later."""
    calls: list[tuple[str, str]] = []
    replace = os.replace

    def renamed(source, target):
        calls.append(("rename", Path(source).name))
        replace(source, target)

    def synced(handle):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    run(photos, tmp_path / "p")
    assert len(calls) > 20
    for first, second, third in zip(calls[::3], calls[1::3], calls[2::3], strict=True):
        assert (first[0], second[0], third) == ("sync", "rename", ("sync", "p"))
        assert first[1] == second[1]


def test_a_damaged_part_is_packed_again(photos, unbroken, tmp_path):
    number = 0
    while not (tmp_path / str(number) / "part-00001.bin").exists():
        number += 5
        assert killed_at(photos, tmp_path / str(number), number)
    out = tmp_path / str(number)
    part = bytearray((out / "part-00001.bin").read_bytes())
    part[100] ^= 1
    (out / "part-00001.bin").write_bytes(part)
    run(photos, out)
    assert content(out) == unbroken


def test_a_shard_that_reads_back_otherwise_is_written_again(
    photos, unbroken, tmp_path, monkeypatch
):
    before = packing.file_sha256
    wrong = lambda path: "0" if path.name == "shard-00001.bin" else before(path)  # noqa: E731
    monkeypatch.setattr(packing, "file_sha256", wrong)
    with pytest.raises(StorageError, match=r"shard-00001.bin reads back otherwise"):
        run(photos, tmp_path / "p")
    monkeypatch.undo()
    run(photos, tmp_path / "p")
    assert content(tmp_path / "p") == unbroken


def test_one_process_at_a_time(photos, tmp_path):
    source = open_source(str(photos))
    first, second = (Packer(source, tmp_path / "p", FORM, job_of(source, FORM)) for _ in range(2))
    with first.locked():
        first.begin()
        with pytest.raises(StorageError, match="in use by another process"), second.locked():
            pass
    with second.locked():
        second.begin()


def test_other_options_and_other_images_are_refused(photos, tmp_path):
    root = make_set("rgb", tmp_path / "in", 4)
    run(root, tmp_path / "p")
    source = open_source(str(root))
    other = job_of(source, FORM._replace(shard_bytes=7000))
    with pytest.raises(UsageError, match="was packed with shard-bytes 10000, not 7000"):
        state_of(tmp_path / "p", other)
    Image.new("RGB", (9, 9)).save(root / "cat/new.png")
    with pytest.raises(DataError, match=r"holds other images \(4, these are 5\)"):
        state_of(tmp_path / "p", job_of(open_source(str(root)), FORM))


def test_above_five_percent_it_ends_and_leaves_the_list(photos, unbroken, tmp_path):
    assert b'"cat/5.png"' in unbroken[BAD]
    root = make_set("rgb", tmp_path / "in", 24)
    for name in ("cat/1.png", "cat/23.png"):
        (root / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 24 images cannot be read, more than 5 %.*cat/1.png"):
        run(root, tmp_path / "p")
    assert set(content(tmp_path / "p")) == {BAD}
    for name in ("cat/1.png", "cat/23.png"):
        (root / name).unlink()
    run(root, tmp_path / "p")
    assert len(PackedSource(tmp_path / "p")) == 22
    assert BAD not in content(tmp_path / "p")
