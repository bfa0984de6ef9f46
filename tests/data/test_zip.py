"""Zip files as sources: the same images as in a folder."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from archives import folder, paths, photos, png, same, zipped

from openmae.data import zip as module
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("root", ["", "photos/", "./", "/abs/", "a\\b/"])
def test_a_zip_is_the_folder(tmp_path, method, root):
    whole = open_source(str(folder(tmp_path / "folder", photos())))
    files = {root + name: data for name, data in reversed(photos().items())}
    assert same(open_source(str(zipped(tmp_path / "x.zip", files, method))), whole)


def test_names_labels_and_lines(tmp_path):
    files = {"set/1.png": png(1), "set/1.cls": b"9"}
    files |= {"set/é.png": png(2), "set/é.json": b'{"label": 7}'}
    files |= {"__MACOSX/set/._1.png": b"", "set/readme.txt": b"", "set/sub/": b""}
    source = open_source(str(zipped(tmp_path / "x.zip", files)))
    assert paths(source) == ["x.zip/set/1.png", "x.zip/set/é.png"]
    assert (source.classes, source.labels.tolist()) == (["7", "9"], [1, 0])
    assert next(source.listing()) == f"x.zip/set/1.png\t{len(png(1))}\t9"


def test_folders_written_by_windows(tmp_path):
    files = {"b\\1.png": png(1), "a\\2.png": png(2)}
    source = open_source(str(zipped(tmp_path / "x.zip", files)))
    assert paths(source) == ["x.zip/a/2.png", "x.zip/b/1.png"]
    assert source.classes == ["a", "b"]


def test_zip64_streamed_and_with_something_before_it(tmp_path):
    class Stream:
        """A file that cannot seek, so that sizes stand behind the data."""

        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    whole = open_source(str(folder(tmp_path / "folder", photos())))
    stream = Stream(tmp_path / "stream.zip")
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in photos().items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    stream.file.close()
    assert same(open_source(str(tmp_path / "stream.zip")), whole)
    (tmp_path / "x.zip").write_bytes(b"#!/bin/sh\nexit\n" + (tmp_path / "stream.zip").read_bytes())
    assert same(open_source(str(tmp_path / "x.zip")), whole)


def test_a_long_extra_field_before_the_data(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a.png")
        info.extra = struct.pack("<HH", 0x7777, 4000) + bytes(4000)
        archive.writestr(info, png(1))
    assert open_source(str(tmp_path / "x.zip"))[0]["image"].shape == (9, 7, 3)


def test_the_index_is_kept_until_the_zip_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    first = open_source(str(zipped(tmp_path / "x.zip", {**photos(), "a/00.cls": b"k"})))
    reads = module._directory
    monkeypatch.setattr(module, "_directory", lambda *_: pytest.fail("read again"))
    again = open_source(str(tmp_path / "x.zip"))
    assert same(again, first)
    assert list(again.listing()) == list(first.listing())
    monkeypatch.setattr(module, "_directory", reads)
    assert len(open_source(str(zipped(tmp_path / "x.zip", photos(5))))) == 5


@pytest.mark.parametrize("workers", [2])
def test_loader_processes_read_the_same(tmp_path, workers):
    source = open_source(str(zipped(tmp_path / "x.zip", photos())))
    batches = TrainBatches(source, TrainTransform((8, 8), seed=0), seed=0, global_batch=8)
    for number, batch in enumerate(loader(batches, range(4), workers)):
        assert batch["bad"] == []
        assert (batch["image"] == batches[number]["image"]).all()


def test_a_subset_reads_its_own_members(tmp_path):
    source = open_source(str(zipped(tmp_path / "x.zip", photos())))
    part = source.subset([7, 2])
    for index, whole in enumerate((7, 2)):
        assert (part[index]["image"] == source[whole]["image"]).all()
