"""Tar files that lie: each has one stated outcome, in bounded time, and writes nothing."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import header, paths, photos, png, tar

from openmae.data.members import MAX_NAME, Gather
from openmae.data.sources import open_source
from openmae.data.tar import MAX_EXTENDED, open_tar
from openmae.errors import DataError


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    """Outside of the cache there are afterwards the files of before, and the archives."""
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").mkdir()
    yield
    names = {p.name for p in tmp_path.iterdir()}
    assert names <= {"beside", "cache", "x.tar"}
    assert not list((tmp_path / "beside").iterdir())


def block(name: str, size: int = 0, kind: bytes = b"0", raw: bytes = b"") -> bytes:
    """One header with fields overwritten (`raw`: bytes of the size) and a right checksum."""
    data = bytearray(header(name, max(size, 0), type=kind).tobuf(tarfile.GNU_FORMAT)[:512])
    if raw:
        data[124:136] = raw
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes) -> bytes:
    return block(name, len(data)) + padded(data)


def base256(value: int) -> bytes:
    return (b"\x80" if value >= 0 else b"\xff") + (value % 2**88).to_bytes(11, "big")


def pax(records: bytes, name: str = "pax") -> bytes:
    return block(name, len(records), b"x") + padded(records)


def write(*parts: bytes, end: bytes = bytes(1024)) -> Path:
    Path("x.tar").write_bytes(b"".join(parts) + end)
    return Path("x.tar")


GOOD = member("good.png", png(1))


def opened(*parts: bytes) -> list[str]:
    source = open_source(str(write(*parts)))
    for index in range(len(source)):
        source[index]
    return paths(source)


# What is of no harm is taken or left out.


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../beside/a.png", "__/__/beside/a.png"),
        ("/beside/a.png", "beside/a.png"),
        ("beside/../../a.png", "beside/__/__/a.png"),
        ("C:\\a.png", "C:\\a.png"),
        ("\x1b]0;title\x07.png", "_]0;title_.png"),
    ],
)
def test_names_lead_nowhere(name, label):
    assert opened(member(name, png(2))) == [f"x.tar/{label}"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("target", ["/etc/passwd", "../beside/x", "good.png"])
def test_links_and_devices_are_left_out(kind, target):
    info = header("evil.png", 0, type=kind, linkname=target, devmajor=1, devminor=3)
    assert opened(info.tobuf(tarfile.GNU_FORMAT), GOOD) == ["x.tar/good.png"]


def test_a_link_and_then_a_file_below_it():
    link = header("beside", type=tarfile.SYMTYPE, linkname="/tmp").tobuf()
    assert opened(link, member("beside/a.png", png(2))) == ["x.tar/beside/a.png"]


def test_an_unknown_type_is_passed_over():
    assert opened(block("odd.png", 700, b"Z") + bytes(1024), GOOD) == ["x.tar/good.png"]


def test_sparse_members_are_left_out():
    old = bytearray(block("hole.png", 512, tarfile.GNUTYPE_SPARSE))
    old[482] = 1
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    more = bytearray(512)
    more[504] = 1
    new = pax(b"22 GNU.sparse.major=1\n") + member("hole2.png", bytes(512))
    assert opened(bytes(old), bytes(more), bytes(512), bytes(512), new, GOOD) == ["x.tar/good.png"]


def test_an_empty_member_is_a_bad_image():
    source = open_source(str(write(member("a.png", b""), GOOD)))
    with pytest.raises(DataError, match="empty file"):
        source[0]
    assert source[1]["image"].shape == (9, 7, 3)


def test_a_nested_archive_is_no_image():
    inner = GOOD + bytes(1024)
    assert opened(member("inner.tar", inner), GOOD) == ["x.tar/good.png"]
    source = open_source(str(write(member("inner.png", inner))))
    with pytest.raises(DataError, match="not an image"):
        source[0]


def test_a_member_of_code_is_never_run():
    assert opened(member("a.pkl", b"cos\nsystem\n(S'touch beside/x'\ntR."), GOOD) == [
        "x.tar/good.png"
    ]


# What lies is refused, with the shard and the place.

LIES: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "negative size": (lambda: [GOOD, block("a.png", raw=base256(-1024))], "a size that is no size"),
    "negative size back to the start": (
        lambda: [GOOD, block("a.png", raw=base256(-len(GOOD) - 512))],
        "a size that is no size",
    ),
    "negative octal": (lambda: [GOOD, block("a.png", raw=b"-0000000512\0")], "a size that is no"),
    "huge size": (lambda: [GOOD, block("a.png", raw=base256(2**80))], "beyond the end"),
    "size beyond the end": (lambda: [GOOD, block("a.png", 99_999)], "beyond the end"),
    "size in letters": (lambda: [GOOD, block("a.png", raw=b"zzzzzzzzzzz\0")], "no header"),
    "wrong checksum": (lambda: [GOOD, block("a.png")[:-9] + b"x" * 9], "no header"),
    "noise": (lambda: [GOOD, os.urandom(1024)], "no header"),
    "pax without end": (lambda: [pax(b"12 path=a.b\n")] * 20 + [GOOD], "endless extended header"),
    "long names without end": (lambda: [_long("n")] * 20 + [GOOD], "endless extended header"),
    "pax of 2 MB": (
        lambda: [pax(b"%d path=%s\n" % (MAX_EXTENDED * 2, b"a" * (MAX_EXTENDED * 2 - 14)))],
        "endless extended header",
    ),
    "pax of length 0": (lambda: [pax(b"0 path=a\n"), GOOD], "extended header that is none"),
    "pax of negative length": (lambda: [pax(b"-9 path=a\n"), GOOD], "extended header that is none"),
    "pax longer than it is": (lambda: [pax(b"99 path=a\n"), GOOD], "extended header that is none"),
    "pax without =": (lambda: [pax(b"9 path_a\n"), GOOD], "extended header that is none"),
    "pax size negative": (lambda: [pax(b"12 size=-12\n"), GOOD], "a size that is no size"),
    "pax size huge": (lambda: [pax(b"26 size=99999999999999999\n"), GOOD], "beyond the end"),
    "pax size of digits": (lambda: [pax(b"30 size=999999999999999999999\n"), GOOD], "no size"),
    "sparse without end": (
        lambda: [_sparse(), *[b"\0" * 504 + b"\1" + b"\0" * 7] * 40],
        "beyond the end|truncated|no header",
    ),
    "long name beyond the end": (lambda: [GOOD, block("x", 5000, b"L")], "beyond the end"),
    "two of a name": (lambda: [GOOD, GOOD], "good.png is in it twice"),
    "two of a name, written otherwise": (
        lambda: [GOOD, member("./good.png", b"")],
        "is in it twice",
    ),
    "two labels": (lambda: [GOOD, member("good.cls", b"1"), member("good.cls", b"2")], "twice"),
    "a second archive behind": (lambda: [GOOD, bytes(1024), GOOD], "a second archive at"),
    "endless name": (lambda: [_long("n" * (MAX_NAME + 1) + ".png"), GOOD], "endless names"),
}


def _sparse() -> bytes:
    data = bytearray(block("a.png", 512, tarfile.GNUTYPE_SPARSE))
    data[482] = 1
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def _long(name: str) -> bytes:
    return block("././@LongLink", len(name) + 1, b"L") + padded(name.encode() + b"\0")


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie):
    make, words = LIES[lie]
    end = b"" if "without end" in lie and "sparse" in lie else bytes(1024)
    with pytest.raises(DataError, match=words) as found:
        open_source(str(write(*make(), end=end)))
    text = str(found.value)
    assert text.startswith("x.tar")
    assert len(text.splitlines()) == 1
    assert not Path("cache").exists() or not list(Path("cache").iterdir())


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_truncated_at_every_boundary_of_a_header(form):
    names = {**photos(3), "n" * 200 + ".png": png(5), "1.cls": b"7"}
    data = tar(Path("x.tar"), names, form).read_bytes()
    with tarfile.open("x.tar") as archive:
        end = max(info.offset_data + 512 * -(-info.size // 512) for info in archive)
    assert len(data) > end + 512
    for cut in sorted({*range(0, end + 1, 512), *range(1, end, 509)}):
        Path("x.tar").write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"x\.tar is broken at byte [\d,]+: .*truncated"):
            open_tar("x.tar")
    Path("x.tar").write_bytes(data[: end + 512])  # one block that says: the end
    assert len(open_tar("x.tar")) == 4


def test_random_damage_ends_in_an_error_or_in_images():
    data = tar(
        Path("x.tar"), {**photos(4), "m" * 120 + ".png": png(9), "a/0.cls": b"3"}
    ).read_bytes()
    random, refused = np.random.default_rng(0), 0
    limit = sys.getrecursionlimit()
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(int(random.integers(1, 6))):
            at = int(random.integers(0, len(damaged)))
            if random.random() < 0.7:  # in a header, where it tells
                at = at // 512 * 512 + int(random.integers(0, 512))
            damaged[at] = int(random.integers(0, 256))
        if random.random() < 0.3:
            damaged = damaged[: int(random.integers(0, len(damaged)))]
        Path("x.tar").write_bytes(damaged)
        try:
            source = open_tar("x.tar")
            for index in range(len(source)):
                source[index]
        except DataError:
            refused += 1
    assert 50 < refused <= 200
    assert sys.getrecursionlimit() == limit


def test_count_and_names_are_bounded(monkeypatch):
    monkeypatch.setattr("openmae.data.members.MAX_MEMBERS", 3)
    gathered = Gather("s")
    for i in range(3):
        gathered.add(f"{i}.txt", 0, 0)
    with pytest.raises(DataError, match="more than 3 members"):
        gathered.add("x", 0, 0)


def test_a_member_that_is_too_large_is_a_bad_image(monkeypatch):
    source = open_source(str(write(GOOD, member("tall.png", png(2, (90, 90))))))
    monkeypatch.setattr("openmae.data.members.MAX_MEMBER", 2000)
    assert source[0]["image"].shape == (9, 7, 3)
    with pytest.raises(DataError, match="at most 2,000 of an archive are read"):
        source[1]


def test_a_shard_that_shrinks_under_the_source():
    source = open_source(str(write(member("a.png", png(1)), member("b.png", png(2, (90, 90))))))
    source[0]
    os.truncate("x.tar", 4000)
    with pytest.raises(DataError, match=r"x\.tar has changed since"):
        source[1]


def test_bytes_are_those_that_were_packed():
    data = {f"{i}.png": png(i) for i in range(3)}
    source = open_source(str(tar(Path("x.tar"), data)))
    assert [source.row_bytes(i) for i in range(3)] == list(data.values())
    with tarfile.open(fileobj=io.BytesIO(Path("x.tar").read_bytes())) as archive:
        assert archive.getnames() == list(data)
