"""Tar files as sources: the same images as in a folder; the index and its cache."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archives import folder, paths, photos, png, same, shards, tar
from PIL import Image

from openmae.data import tar as module
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.tar import open_tar
from openmae.data.transforms import TrainTransform
from openmae.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def said(words: object) -> str:
    with pytest.raises(DataError) as found:
        open_source(str(words))
    assert len(str(found.value).splitlines()) <= 4
    return str(found.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("root", ["", "photos/", "./", "/tmp/photos/", "a/b/c/"])
def test_a_tar_is_the_folder(tmp_path, form, root):
    files = photos()
    whole = open_source(str(folder(tmp_path / "folder", files)))
    inside = {root + name: data for name, data in reversed(files.items())}
    source = open_source(str(tar(tmp_path / "x.tar", inside, form)))
    assert same(source, whole)
    assert source.classes == ["a", "a-b", "c"]
    start = "x.tar/" + root.removeprefix("./").lstrip("/")
    assert paths(source) == [f"{start}{name}" for name in sorted(files)]


def test_long_names(tmp_path):
    names = ["n" * 98 + ".png", "m" * 300 + ".png", "folder/" * 30 + "é.png", "p\udcff.png"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar(tmp_path / f"{form}.tar", {n: png(i) for i, n in enumerate(names)}, form)
        source = open_tar(str(path))
        assert sorted(paths(source)) == sorted(f"{form}.tar/{n}" for n in names)
        image = source[paths(source).index(f"{form}.tar/{names[2]}")]["image"]
        assert image.shape == (9, 7, 3)


def test_subset_and_header(tmp_path):
    source = open_source(str(tar(tmp_path / "x.tar", photos()))).subset([11, 0])
    assert paths(source) == ["x.tar/c/11.png", "x.tar/a-b/01.png"]
    assert source.labels.tolist() == [2, 1]
    assert source.header(0) == (9, 7, 3, "uint8", "PNG")


def test_no_images(tmp_path):
    assert said(tar(tmp_path / "x.tar", {"a.npy": b"", "b.npy": b"", "c": b""})) == (
        f"{tmp_path}/x.tar has 0 images (3 members; found 2 .npy, 1 (no suffix)). Pack JPEG or PNG"
        " files into it, not archives"
    )
    assert "has 0 images (0 members; found nothing)" in said(tar(tmp_path / "y.tar", {}))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("x.tar.gz", "gunzip -k"),
        ("x.tgz", "gunzip -k"),
        ("x.TAR.BZ2", "bunzip2 -k"),
        ("x.tar.xz", "unxz -k"),
        ("x.txz", "unxz -k"),
        ("x.tar.zst", "unzstd"),
    ],
)
def test_compressed(tmp_path, name, fix):
    (tmp_path / name).touch()
    text = said(tmp_path / name)
    assert "allows no random access" in text
    assert f"{fix} {tmp_path}/{name}" in text
    assert text.endswith(f"give {name.lower()[:1]}.{'TAR' if 'TAR' in name else 'tar'} beside it")


def test_compressed_under_a_plain_name(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.add(folder(tmp_path / "f", photos()), "f")
    assert said(tmp_path / "x.tar") == (
        "x.tar is compressed by gzip (gunzip), which allows no random access. Unpack it to a plain"
        " .tar first"
    )


# The index.


def test_the_index_is_kept_and_used(tmp_path, cache, monkeypatch):
    path = tar(tmp_path / "data" / "x.tar", {**photos(), "a/00.cls": b"k"})
    first = open_source(str(path))
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(module, "index_tar", lambda *_: pytest.fail("read again"))
    assert same(open_source(str(path)), first)
    assert paths(open_source(str(path))) == paths(first)
    assert {p.name for p in path.parent.iterdir()} == {"x.tar"}


def test_a_changed_shard_is_indexed_again_and_the_old_source_says_so(tmp_path):
    path = tar(tmp_path / "x.tar", photos())
    before = open_source(str(path))
    status = path.stat()
    tar(path, {name: png(i + 100) for i, name in enumerate(photos())})
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the smallest change
    assert np.array_equal(open_source(str(path))[0]["image"], decode(png(101)))
    tar(path, photos(40))
    with pytest.raises(DataError, match=r"x\.tar has changed since it was opened"):
        before[0]


@pytest.mark.parametrize("damage", ["cut", "noise", "beyond", "empty", "other"])
def test_a_damaged_cache_is_not_used(tmp_path, cache, damage):
    path = tar(tmp_path / "x.tar", photos())
    first = open_source(str(path))
    (entry,) = cache.iterdir()
    data = entry.read_bytes()
    if damage == "beyond":
        with np.load(entry) as file:
            arrays = {k: file[k] for k in file.files}
        np.savez(entry, **{**arrays, "sizes": arrays["sizes"] + 10**9})
    elif damage == "other":
        np.savez(entry, offsets=np.zeros(3))
    else:
        entry.write_bytes({"cut": data[:300], "noise": os.urandom(500), "empty": b""}[damage])
    assert same(open_source(str(path)), first)


def test_without_a_cache_everything_works(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "file" / "cache"))
    path = tar(tmp_path / "x.tar", photos())
    assert len(open_source(str(path))) == 12
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "data" / "cache"))
    tar(tmp_path / "data" / "y.tar", photos())
    open_source(str(tmp_path / "data"))
    left = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert left == [tmp_path / "data" / "y.tar"]  # never within the data


def test_memory_of_the_index(tmp_path):
    files = {f"class{i % 9}/{i:06d}.png": b"" for i in range(2000)}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    arrays = [source.shard, source.offsets, source.sizes, source.order, source.rows]
    arrays += [source.members.block, source.members.ends, source.table_labels]
    assert sum(a.nbytes for a in arrays) / len(source) < 100


# Processes.


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_read_the_same(tmp_path, workers):
    source = open_source(str(shards(tmp_path / "s", photos(), 5)))
    source[0]  # a file is open already
    batches = TrainBatches(source, TrainTransform((8, 8), seed=0), seed=0, global_batch=8)
    for number, batch in enumerate(loader(batches, range(4), workers)):
        alone = batches[number]
        assert batch["path"] == alone["path"]
        assert batch["bad"] == []
        assert (batch["image"] == alone["image"]).all()


def test_few_files_stay_open(tmp_path):
    source = open_source(str(shards(tmp_path / "s", photos(80), 1)))
    before = len(os.listdir("/dev/fd"))
    for index in range(len(source)):
        source[index]
    assert len(os.listdir("/dev/fd")) <= before + 32
    del source
    assert len(os.listdir("/dev/fd")) <= before
