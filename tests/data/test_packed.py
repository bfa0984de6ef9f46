"""Packed images are the images that were packed; damage is named, and never ends the process."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data.pack_files import KINDS, make_set, noise, pack, smooth
from PIL import Image

from openmae.data import packindex, records
from openmae.data.loader import TrainBatches, loader
from openmae.data.packcheck import verify
from openmae.data.packed import PackedSource
from openmae.data.packindex import TABLES
from openmae.data.source import ArraySource
from openmae.data.sources import hash_split, open_source, open_split
from openmae.data.subset import few_shot
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.errors import DataError

TRANSFORM = TrainTransform((16, 24), seed=3)


def silent(done: int, total: int) -> None: ...


def batches(source, workers: int = 0) -> list[dict]:
    made = TrainBatches(source, TRANSFORM, 3, 5)
    return list(loader(made, range(5), workers))


def same(a: list[dict], b: list[dict]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
        assert {k: one[k] for k in ("path", "id", "bad")} == {
            k: other[k] for k in ("path", "id", "bad")
        }


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {kind: make_set(kind, root / kind) for kind in KINDS}


@pytest.fixture
def rgb(sets, tmp_path) -> Path:
    """A packed set of several shards."""
    pack(open_source(str(sets["rgb"])), tmp_path / "rgb")
    assert (tmp_path / "rgb/shard-00002.bin").exists()
    return tmp_path / "rgb"


# Round trips.


@pytest.mark.parametrize("mode", ["lossless", "raw"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_folder(kind, mode, sets, tmp_path):
    folder = open_source(str(sets[kind]), KINDS[kind])
    packed = pack(folder, tmp_path / "p", mode)
    assert len(packed.index.shards) > 1
    assert packed.classes == folder.classes == ["cat", "dög"]
    same(batches(folder), batches(packed))
    for i in range(len(folder)):
        assert np.array_equal(folder.raw(i), packed.raw(i))
        assert packed.header(i)[:4] == (*packed.raw(i).shape, str(packed.raw(i).dtype))
    assert isinstance(open_source(str(tmp_path / "p")), PackedSource)
    verify(tmp_path / "p", silent)


def test_lossless_records_are_the_files(sets, tmp_path):
    packed = pack(open_source(str(sets["rgb"])), tmp_path / "p")
    for i in range(len(packed)):
        assert packed.row_bytes(i) == (sets["rgb"] / packed.path(i)).read_bytes()
        assert packed.header(i).format == ("JPEG" if packed.path(i).endswith("jpg") else "PNG")


def test_colour_read_as_gray(sets, tmp_path):
    """From files as always; from values JPEG's own luma is gone, and noise may differ a little."""
    gray = Decoding(channels=1)
    folder = open_source(str(sets["rgb"]), gray)
    same(batches(folder), batches(pack(folder, tmp_path / "p")))
    raw = pack(folder, tmp_path / "r", "raw")
    for i in range(len(folder)):
        assert np.abs(folder[i]["image"].astype(int) - raw[i]["image"]).mean() < 1


def test_splits_and_few_shots_agree(sets, tmp_path):
    folder = open_source(str(sets["rgb"]))
    packed = pack(folder, tmp_path / "p")
    for a, b in zip(hash_split(folder, 0.3), hash_split(packed, 0.3), strict=True):
        assert [a.path(i) for i in range(len(a))] == [b.path(i) for i in range(len(b))]
    few = [few_shot(s, count=2, seed=1) for s in (folder, packed)]
    assert few[0].rows.tolist() == few[1].rows.tolist()


def test_labels_and_splits_are_kept(tmp_path):
    images = noise(0, 10, 6, 6, 3)
    source = ArraySource("x", images, np.array([0, 1, 0, 1, 0, 0, 1, -1, 0, 1]), ["a", "b"])
    source.table_splits = np.array([0, 0, 1, 1, 0, 0, 1, -1, 0, 1], dtype=np.int8)
    packed = pack(source, tmp_path / "p", "raw", 500)
    assert np.array_equal(packed.labels, source.labels)
    train, test = open_split(str(tmp_path / "p"))
    assert train.rows.tolist() == [0, 1, 4, 5, 8]
    assert test.rows.tolist() == [2, 3, 6, 9]
    assert test.labels.tolist() == [0, 1, 1, 1]
    assert train.classes == ["a", "b"]


def test_several_labels_and_no_labels(tmp_path):
    source = ArraySource("x", noise(0, 3, 6, 6, 3), None, [])
    assert pack(source, tmp_path / "none", "raw").labels.tolist() == [-1, -1, -1]
    source.classes = ["a", "b"]
    source.table_labels = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.float32)
    packed = pack(source, tmp_path / "several", "raw")
    assert packed.labels.dtype == np.float32
    assert np.array_equal(packed.labels, source.table_labels)
    assert packed.label(1).tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["bool", "int16", "float64", "uint32", "float16"])
def test_values_of_any_type(kind, tmp_path):
    images = noise(0, 4, 5, 7, 2).astype(kind)
    packed = pack(ArraySource("x", images, None, []), tmp_path / "p", "raw")
    for i in range(4):
        found = packed.raw(i)
        assert found.dtype == images.dtype
        assert np.array_equal(found, images[i])
        found[:] = 1  # a copy: the next reader sees what was packed
        assert np.array_equal(packed.raw(i), images[i])


def test_strange_names(tmp_path):
    names = ["a\nb.png", "ü.png", b"\xff.png".decode("utf-8", "surrogateescape"), " .png"]
    (tmp_path / "in").mkdir()
    for i, name in enumerate(names):
        Image.fromarray(noise(i, 5, 5)).save(tmp_path / "in" / name, "PNG")
    packed = pack(open_source(str(tmp_path / "in")), tmp_path / "out")
    assert [packed.path(i) for i in range(4)] == sorted(names)


# JPEG.


def packed_jpeg(image: np.ndarray, tmp_path: Path, suffix: str = ".png", **options) -> PackedSource:
    (tmp_path / "in").mkdir()
    picture = Image.fromarray(image)
    picture.save(tmp_path / f"in/a{suffix}", **options)
    return pack(open_source(str(tmp_path / "in")), tmp_path / "out", "jpeg", side=64)


@pytest.mark.parametrize(
    ("size", "want"), [((100, 150), (64, 96)), ((300, 64), (300, 64)), ((80, 65), (79, 64))]
)
def test_jpeg_brings_the_short_side_down(size, want, tmp_path):
    source = packed_jpeg(smooth(*size), tmp_path)
    image = source.raw(0)
    assert image.shape == (*want, 3)
    assert source.header(0)[:3] == image.shape
    wanted = Image.fromarray(smooth(*size)).resize(want[::-1], Image.Resampling.BICUBIC)
    assert np.abs(image.astype(int) - np.asarray(wanted)).mean() < 2


def test_jpeg_keeps_gray(tmp_path):
    source = packed_jpeg(smooth(90, 90)[..., 0], tmp_path)
    assert source.raw(0).shape == (64, 64, 1)
    three = source.decoded(Decoding(channels=3))
    assert (three[0]["image"] == source.raw(0)).all()
    assert three[0]["image"].shape == (64, 64, 3)


def test_jpeg_applies_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = packed_jpeg(smooth(50, 40), tmp_path, ".jpg", exif=exif, quality=95)
    assert source.raw(0).shape == (40, 50, 3)
    turned = np.rot90(smooth(50, 40), -1)
    assert np.abs(source.raw(0).astype(int) - turned).mean() < 4


def test_small_jpeg_files_are_not_written_again(tmp_path):
    source = packed_jpeg(smooth(50, 40), tmp_path, ".jpg")
    assert source.row_bytes(0) == (tmp_path / "in/a.jpg").read_bytes()


def test_a_deep_image_among_the_rest_is_kept_as_it_is(sets, tmp_path, monkeypatch):
    root = make_set("rgb", tmp_path / "in", 4)
    deep = next((sets["deep"] / "cat").iterdir())
    shutil.copy(deep, root / "cat/z.tif")
    packed = pack(open_source(str(root)), tmp_path / "out", "jpeg", side=16)
    row = [packed.path(i) for i in range(len(packed))].index("cat/z.tif")
    assert packed.row_bytes(row) == deep.read_bytes()
    assert packed.raw(row).dtype == np.uint16
    found = records.look(open_source(str(root)))
    with pytest.raises(DataError, match=r"cat/z.tif has pixels of 1 x uint16.*--mode lossless"):
        records.require_jpeg(open_source(str(root)), found)


def test_modes_are_chosen_by_what_is_there(sets, tmp_path):
    def chosen(source, side: int) -> str:
        return records.choose_mode(source, records.look(source), side)[0]

    rgb = open_source(str(sets["rgb"]))
    assert chosen(rgb, 16) == "jpeg"
    assert chosen(rgb, 256) == "lossless"
    assert chosen(open_source(str(sets["bands"])), 4) == "lossless"
    assert chosen(ArraySource("x", noise(0, 3, 90, 90, 3), None, []), 16) == "raw"
    assert chosen(pack(rgb, tmp_path / "l"), 16) == "jpeg"
    assert chosen(pack(rgb, tmp_path / "r", "raw"), 16) == "raw"


# Processes.


def test_workers_read_the_same(rgb):
    source = PackedSource(rgb, Decoding(channels=3))
    source.raw(0)  # mapped before the fork
    same(batches(source), batches(source, workers=2))


def test_sent_to_another_process_by_its_path(rgb):
    source = PackedSource(rgb)
    source.raw(0)
    sent = pickle.dumps(source)
    assert len(sent) < 3000 + 16 * len(source)  # rows and labels, not tables or shards
    again = pickle.loads(sent)
    assert [again.path(i) for i in range(len(again))] == [source.path(i) for i in range(12)]
    assert np.array_equal(again.raw(3), source.raw(3))


def test_few_shards_are_mapped_at_a_time(rgb, monkeypatch):
    monkeypatch.setattr(packindex, "_MAPS", 2)
    source = PackedSource(rgb)
    want = [source.raw(i) for i in range(12)]
    assert len(source.index._maps) == 2
    for i in reversed(range(12)):
        assert np.array_equal(source.raw(i), want[i])


def test_an_entry_costs_less_than_200_bytes(tmp_path):
    images = np.zeros((1000, 1, 1, 1), dtype=np.uint8)
    source = pack(
        ArraySource("x" * 50, images, np.zeros(1000), ["a"]), tmp_path / "p", "raw", 10**6
    )
    in_process = source.rows.nbytes + source.table_labels.nbytes
    assert ((tmp_path / "p" / TABLES).stat().st_size + in_process) / 1000 < 140
