"""Zip files that lie or are damaged: each has one stated outcome."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import paths, photos, png, tar, zipped

from openmae.data.sources import open_source
from openmae.data.zip import open_zip
from openmae.errors import DataError


def said(words: object) -> str:
    with pytest.raises(DataError) as found:
        open_source(str(words))
    assert len(str(found.value).splitlines()) <= 4
    return str(found.value)


def unread(path: Path, name: str) -> str:
    """Why the image of a name cannot be read; all others can."""
    source = open_source(str(path))
    reason = ""
    for index in range(len(source)):
        if source.path(index) == f"{path.name}/{name}":
            with pytest.raises(DataError) as found:
                source[index]
            reason = str(found.value)
        else:
            assert source[index]["image"].shape == (9, 7, 3)
    assert reason
    return reason


# What is refused member by member.


def flags(path: Path, name: str, change: dict[str, int]) -> Path:
    """Overwrite fields of a member in the directory and, where it has them, in its own header."""
    data = bytearray(path.read_bytes())
    places = {"flags": (8, 6, "<H"), "method": (10, 8, "<H"), "crc": (16, 14, "<I")}
    places |= {"packed": (20, 18, "<I"), "size": (24, 22, "<I"), "offset": (42, None, "<I")}
    at = data.index(b"PK\1\2")
    while data[at + 46 : at + 46 + len(name)] != name.encode():
        at = data.index(b"PK\1\2", at + 4)
    own = struct.unpack_from("<I", data, at + 42)[0]
    for field, value in change.items():
        there, here, form = places[field]
        struct.pack_into(form, data, at + there, value)
        if here is not None:
            struct.pack_into(form, data, own + here, value)
    path.write_bytes(data)
    return path


@pytest.fixture
def three(tmp_path) -> Path:
    return zipped(tmp_path / "x.zip", {f"{i}.png": png(i) for i in range(3)})


@pytest.mark.parametrize("bits", [0x1, 0x41])
def test_encrypted(three, bits):
    assert unread(flags(three, "1.png", {"flags": bits}), "1.png") == "encrypted in the zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97])
def test_other_compressions(three, method):
    text = unread(flags(three, "1.png", {"method": method}), "1.png")
    assert "only stored and deflated members are" in text


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = zipped(tmp_path / "x.zip", {"0.png": png(0), "bomb.png": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    assert "a zip bomb" in unread(path, "bomb.png")


def test_a_size_that_lies_is_found_within_that_size(three):
    assert "damaged in the zip" in unread(flags(three, "1.png", {"size": 100}), "1.png")


def test_a_size_that_is_too_large(three):
    flags(three, "1.png", {"size": 2**31, "packed": 2**31 - 1})
    source = open_source(str(three))
    with pytest.raises(DataError, match="outside the zip"):
        source[1]


def test_a_checksum_that_differs(three):
    assert unread(flags(three, "1.png", {"crc": 1}), "1.png").endswith("its checksum differs")


def test_a_damaged_byte(three):
    data = bytearray(three.read_bytes())
    data[data.index(b"1.png") + 60] ^= 0x55
    three.write_bytes(data)
    assert "damaged in the zip" in unread(three, "1.png")


def test_members_that_share_their_bytes(tmp_path):
    path = zipped(tmp_path / "x.zip", {f"{i}.png": png(i) for i in range(4)}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("1.png").header_offset
    flags(path, "2.png", {"offset": place + 3})
    source = open_source(str(path))
    for index in (1, 2):
        with pytest.raises(DataError, match="shares its bytes with another member"):
            source[index]
    for index in (0, 3):
        assert source[index]["image"].shape == (9, 7, 3)


def test_the_same_bytes_under_many_names(tmp_path):
    path = zipped(tmp_path / "x.zip", {f"{i}.png": png(i) for i in range(9)}, zipfile.ZIP_STORED)
    for i in range(1, 9):
        flags(path, f"{i}.png", {"offset": 0})
    source = open_source(str(path))
    for index in range(9):
        with pytest.raises(DataError, match="shares its bytes"):
            source[index]


def test_an_offset_where_no_member_is(three):
    flags(three, "2.png", {"offset": 7})
    source = open_source(str(three))
    with pytest.raises(DataError, match=r"shares its bytes|no member"):
        source[2]


@pytest.mark.parametrize("name", ["../../a.png", "/etc/a.png", "C:/a.png", "a\n.png"])
def test_names_lead_nowhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    source = open_source(str(zipped(tmp_path / "x.zip", {name: png(1)})))
    assert ".." not in source.path(0)
    assert "\n" not in source.path(0)
    assert source[0]["image"].shape == (9, 7, 3)
    assert os.listdir(tmp_path) == ["x.zip"]


def test_links_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("evil.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("good.png", png(1))
    assert paths(open_source(str(tmp_path / "x.zip"))) == ["x.zip/good.png"]


def test_nested_archives_and_code_are_no_images(tmp_path):
    inner = zipped(tmp_path / "i.zip", {"a.png": png(1)}).read_bytes()
    path = zipped(tmp_path / "x.zip", {"i.zip": inner, "a.pkl": b"cos\n", "b.png": png(2)})
    assert paths(open_source(str(path))) == ["x.zip/b.png"]
    assert "not an image" in unread(zipped(tmp_path / "y.zip", {"a.png": inner}), "a.png")


# What is refused as a whole.


def test_two_of_a_name(tmp_path):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("a.png", png(1))
    assert "x.zip: a.png is in it twice" in said(tmp_path / "x.zip")


def test_no_images_and_no_zip(tmp_path):
    assert said(zipped(tmp_path / "x.zip", {"a.csv": b"", "b/": b""})) == (
        f"{tmp_path}/x.zip has 0 images (1 members; found 1 .csv). Pack JPEG or PNG files into it,"
        " not archives"
    )
    (tmp_path / "empty.zip").touch()
    assert said(tmp_path / "empty.zip").startswith("empty.zip is broken: File is not a zip file")
    tar(tmp_path / "y.tar", {"a.png": png(1)}).rename(tmp_path / "y.zip")
    assert "y.zip is broken" in said(tmp_path / "y.zip")
    for name in ("p.zip", "q.zip"):
        zipped(tmp_path / name, photos())
    assert "names 2 zip files" in said(f"{tmp_path}/[pq].zip")


def test_a_label_that_is_encrypted_or_damaged(tmp_path):
    path = zipped(tmp_path / "x.zip", {"1.png": png(1), "1.cls": b"cat"})
    assert said(flags(path, "1.cls", {"crc": 5})).startswith("x.zip: 1.cls: damaged in the zip")
    assert said(flags(path, "1.cls", {"flags": 1})) == "x.zip: 1.cls: encrypted in the zip"


def test_truncated_anywhere(three):
    data = three.read_bytes()
    for cut in range(0, len(data), 7):
        three.write_bytes(data[:cut])
        assert "x.zip is broken" in said(three)


def test_random_damage_ends_in_an_error_or_in_images(tmp_path):
    data = zipped(tmp_path / "x.zip", {**photos(4), "a/0.cls": b"3"}).read_bytes()
    random, refused = np.random.default_rng(0), 0
    directory, whole = data.index(b"PK\1\2"), set(photos(4).values())
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(int(random.integers(1, 6))):
            start = directory if random.random() < 0.7 else 0
            damaged[int(random.integers(start, len(damaged)))] = int(random.integers(0, 256))
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            source = open_zip(str(tmp_path / "x.zip"))
        except DataError:
            refused += 1
            continue
        for index in range(len(source)):
            try:
                image = source[index]["image"]
            except DataError:
                refused += 1
            else:
                assert source.row_bytes(index) in whole
                assert image.shape == (9, 7, 3)
    assert refused > 100
