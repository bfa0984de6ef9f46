"""Damaged packed images: named by shard and image, at opening, when read, and by verification."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from data.pack_files import make_set, pack
from safetensors.numpy import load, save

from openmae.data.packcheck import verify
from openmae.data.packed import PackedSource
from openmae.data.packindex import INDEX, TABLES, Index, seal, unseal
from openmae.data.sources import open_source
from openmae.errors import DataError, StorageError


def silent(done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return {"rgb": make_set("rgb", tmp_path_factory.mktemp("sets") / "rgb")}


@pytest.fixture
def rgb(sets, tmp_path) -> Path:
    """A packed set of several shards."""
    pack(open_source(str(sets["rgb"])), tmp_path / "rgb")
    assert (tmp_path / "rgb/shard-00002.bin").exists()
    return tmp_path / "rgb"


def flip(path: Path, at: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_of_the_index_is_found_at_opening(rgb):
    whole = {name: (rgb / name).read_bytes() for name in (INDEX, TABLES)}
    for name, data in whole.items():
        for at in {*range(0, len(data), 41), len(data) - 1, len(data) - 2}:
            flip(rgb / name, at, at % 8)
            with pytest.raises(DataError, match=r"damaged|checksum"):
                PackedSource(rgb)
            with pytest.raises(StorageError):
                verify(rgb, silent)
        (rgb / name).write_bytes(data)
    verify(rgb, silent)


def test_a_flipped_bit_of_a_shard_is_named(rgb):
    source = PackedSource(rgb)
    number, offset, size = source.index.place(7)
    path = rgb / f"shard-{number:05d}.bin"
    for at in (offset, offset + size // 2, offset + size - 1):
        flip(path, at)
        with pytest.raises(StorageError, match=rf"{source.path(7)} in {path.name}"):
            verify(rgb, silent)
        flip(path, at)
    gap = next(
        i for i in range(11) if source.index.place(i)[0] == 0 and source.index.place(i)[2] % 64
    )
    flip(rgb / "shard-00000.bin", sum(source.index.place(gap)[1:]))
    with pytest.raises(StorageError, match=r"shard-00000.bin fails its checksum, between images"):
        verify(rgb, silent)


@pytest.mark.parametrize("name", ["shard-00001.bin", TABLES])
def test_another_size_is_refused_at_opening(name, rgb):
    data = (rgb / name).read_bytes()
    for wrong in (b"", data[:-1], data + b"x"):
        (rgb / name).write_bytes(wrong)
        with pytest.raises(DataError, match=f"{name} has {len(wrong):,} bytes"):
            open_source(str(rgb))
    (rgb / name).unlink()
    with pytest.raises(DataError, match=f"{name}: No such file"):
        PackedSource(rgb)


def test_no_index_is_named(rgb):
    (rgb / INDEX).unlink()
    with pytest.raises(DataError, match=r"index\.json: No such file"):
        open_source(str(rgb))


@pytest.mark.parametrize("opened", [False, True])
def test_a_shard_that_shrinks_later_is_an_error_of_its_images(opened, rgb):
    source = PackedSource(rgb)
    row = 11
    number = source.index.place(row)[0]
    if opened:
        source.raw(row)
    (rgb / f"shard-{number:05d}.bin").open("r+b").truncate(10)
    with pytest.raises(DataError, match=rf"shard-{number:05d}.bin has 10 bytes"):
        source.raw(row)
    assert source.raw(0).size


def changed(rgb: Path, **tables: np.ndarray) -> None:
    """Another index whose checksums are right."""
    arrays = load((rgb / TABLES).read_bytes())
    for name, change in tables.items():
        arrays[name] = change(arrays[name].copy())
    data = save(arrays)
    (rgb / TABLES).write_bytes(data)
    head = unseal((rgb / INDEX).read_bytes())
    head.pop("sha256")
    head["files"][TABLES] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    (rgb / INDEX).write_bytes(seal(head))


@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", 2**64 - 1), ("size", 2**63), ("shard", 99), ("kind", 3), ("dtype", 14),
     ("format", 9), ("name_end", -1), ("name_end", 10**9), ("label", 2), ("label", -2)],
)  # fmt: skip
def test_an_index_that_lies_is_refused(name, value, rgb):
    def change(table: np.ndarray) -> np.ndarray:
        table[5] = value
        return table

    changed(rgb, **{name: change})
    with pytest.raises(DataError, match="the index is damaged"):
        PackedSource(rgb)


def test_tables_of_another_shape_are_refused(rgb):
    for change in (lambda t: t[:-1], lambda t: t.astype(np.float32), lambda t: t[:, None]):
        original = (rgb / TABLES).read_bytes(), (rgb / INDEX).read_bytes()
        changed(rgb, size=change)
        with pytest.raises(DataError, match="the index is damaged"):
            Index(rgb)
        for name, data in zip((TABLES, INDEX), original, strict=True):
            (rgb / name).write_bytes(data)


def test_a_shape_that_lies_is_an_error_of_its_image(sets, tmp_path):
    pack(open_source(str(sets["rgb"])), tmp_path / "p", "raw")

    def change(table: np.ndarray) -> np.ndarray:
        table[5] = 2**32 - 1
        return table

    changed(tmp_path / "p", shape=change)
    with pytest.raises(DataError, match="bytes are not"):
        PackedSource(tmp_path / "p").raw(5)
    with pytest.raises(StorageError, match="bytes are not"):
        verify(tmp_path / "p", silent)


def test_a_later_format_is_named(rgb):
    head = unseal((rgb / INDEX).read_bytes())
    head.pop("sha256")
    (rgb / INDEX).write_bytes(seal(head | {"version": 2}))
    with pytest.raises(DataError, match="packed in format 2, this openmae reads 1"):
        open_source(str(rgb))
