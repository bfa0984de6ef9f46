"""Samples, splits and forked readers of every kind of table, array and set (that batches are the
same is in test_sources_alike).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source, open_split, short_name
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding

COUNT, SIZE = 24, (40, 36)
NAMES = [f"{'cat' if i < 12 else 'dog'}/{i:02d}.png" for i in range(COUNT)]
CLASSES = [name[:3] for name in NAMES]
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, *SIZE, 3), dtype=np.uint8)


def folder(root: Path) -> str:
    for name, image in zip(NAMES, IMAGES, strict=True):
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return str(root / "photos")


def encoded() -> list[bytes]:
    found = []
    for image in IMAGES:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        found.append(out.getvalue())
    return found


def glob(root: Path) -> str:
    return f"{folder(root)}/**/*.png"


def csv(root: Path) -> str:
    rows = [f"{name},{label}" for name, label in zip(NAMES, CLASSES, strict=True)]
    (Path(folder(root)) / "list.csv").write_text("\n".join(["path,label", *rows]))
    return str(root / "photos" / "list.csv")


def txt(root: Path) -> str:
    (Path(folder(root)) / "list.txt").write_text("\n".join(NAMES))
    return str(root / "photos" / "list.txt")


def parquet_paths(root: Path) -> str:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = Path(folder(root)) / "list.parquet"
    pq.write_table(pa.table({"path": NAMES, "label": CLASSES}), path)
    return str(path)


def parquet_bytes(root: Path) -> str:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"bytes": encoded(), "path": NAMES, "label": CLASSES})
    (root / "data").mkdir()
    for part, rows in (("a", slice(0, 15)), ("b", slice(15, COUNT))):
        piece = table.slice(rows.start, rows.stop - rows.start)
        pq.write_table(piece, root / "data" / f"{part}.parquet", row_group_size=4)
    return str(root / "data")


def saved_set(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    cells = {"image": [{"bytes": b, "path": None} for b in encoded()], "label": CLASSES}
    made = datasets.Dataset.from_dict(cells, features=datasets.Features(kinds))
    made.save_to_disk(str(root / "set"))
    return str(root / "set")


def npy(root: Path) -> str:
    np.save(root / "a.npy", IMAGES)
    return str(root / "a.npy")


def npy_channels_first(root: Path) -> str:
    np.save(root / "a.npy", np.moveaxis(IMAGES, 3, 1))
    return str(root / "a.npy")


def npz(root: Path) -> str:
    np.savez(root / "a.npz", images=IMAGES, labels=CLASSES)
    return str(root / "a.npz")


LABELLED = [folder, glob, csv, parquet_paths, parquet_bytes, saved_set, npz]
KINDS = [*LABELLED, txt, npy, npy_channels_first]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request) -> Callable[[Path], str]:
    """A function that writes the images in a folder and gives the words that name them."""
    return request.param


def test_samples_and_labels(kind, tmp_path):
    source = open_source(kind(tmp_path), Decoding(3))
    assert len(source) == COUNT
    for index in range(COUNT):
        sample = source[index]
        assert sample["image"].dtype == np.uint8
        np.testing.assert_array_equal(sample["image"], IMAGES[index])
        wanted = int(index >= 12) if kind in LABELLED else -1
        assert (sample["id"], sample["label"]) == (index, wanted)
    assert source.classes == (["cat", "dog"] if kind in LABELLED else [])
    assert source.header(5)[:4] == (*SIZE, 3, "uint8")


def test_a_split_is_that_of_the_folder_where_names_are(kind, tmp_path):
    if kind not in (glob, csv, parquet_paths, parquet_bytes):
        pytest.skip("no labels, or other names")
    wanted = open_split(folder(tmp_path / "plain"))
    found = open_split(kind(tmp_path))
    for a, b in zip(wanted, found, strict=True):
        assert [a.path(i) for i in range(len(a))] == [b.path(i) for i in range(len(b))]
        assert a.labels.tolist() == b.labels.tolist()


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> list[torch.Tensor]:
    """Four steps on the folder."""
    return steps(folder(tmp_path_factory.mktemp("plain")), 0)


def steps(word: str, workers: int) -> list[torch.Tensor]:
    made = TrainBatches(
        open_source(word, Decoding(3)), TrainTransform((32, 32), 0.2, True, 0), 0, 8
    )
    return [batch["image"] for batch in loader(made, range(4), workers)]


def test_forked_processes_after_the_parent_has_read(kind, tmp_path, batches):
    """What the parent has open or kept is of no use to its children, and does them no harm."""
    source = open_source(kind(tmp_path), Decoding(3))
    for index in range(0, COUNT, 5):
        source[index]
    made = TrainBatches(source, TrainTransform((32, 32), 0.2, True, 0), 0, 8)
    found = [batch["image"] for batch in loader(made, range(4), 2)]
    source[7]
    assert all(torch.equal(a, b) for a, b in zip(batches, found, strict=True))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("photos/**/*.jpg", "photos"),
        ("hf://owner/name:train", "name-train"),
        ("cifar10:download", "cifar10"),
        ("digits", "digits"),
        ("*.jpg", "data"),
        ("lists/my list.csv", "my-list.csv"),
    ],
)
def test_names_of_folders_for_results(word, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_name(word) == name
    (tmp_path / "my photos").mkdir()
    assert short_name("my photos") == "my photos"
    assert short_name(".") == tmp_path.name
