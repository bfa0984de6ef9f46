"""Standard sets by name, from small files in their published formats; nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from openmae.data.named import NAMES
from openmae.data.sources import open_source, open_split
from openmae.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where the sets lie."""
    monkeypatch.setenv("OPENMAE_DATA_CACHE", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sets"


def md5(path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def images(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def jpeg(path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, value, value)).save(path)


def put_cifar(root, monkeypatch, kind, names: list[str], label: str) -> dict[str, np.ndarray]:
    """Files of four images each, as published; what `kind` checks is changed to be theirs."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for list_name, part in (("train_list", "train"), ("test_list", "test")):
        sums = []
        for name, _ in getattr(kind, list_name):
            data = images(4, 3072)
            found[part].append(data.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
            (folder / name).write_bytes(pickle.dumps({"data": data, label: [0, 1, 2, 1]}))
            sums.append([name, md5(folder / name)])
        monkeypatch.setattr(kind, list_name, sums)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: names}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    return {part: np.concatenate(arrays) for part, arrays in found.items()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(root, monkeypatch, name):
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    label = "labels" if name == "cifar10" else "fine_labels"
    wanted = put_cifar(root, monkeypatch, kind, ["a", "b", "c"], label)
    train, test = open_split(name)
    assert (len(train), len(test)) == (20 if name == "cifar10" else 4, 4)
    for part, source in (("train", train), ("test", test)):
        np.testing.assert_array_equal(source[3]["image"], wanted[part][3])
        assert source.path(3) == f"{part}/00000003"
    assert (train.classes, test.labels.tolist()) == (["a", "b", "c"], [0, 1, 2, 1])
    assert len(open_source(name)) == len(train)
    assert len(open_source(name, split="test")) == 4
    assert next(train.listing()) == f"train/00000000\ttorchvision {name}\t0"


def test_pickles_are_not_read_unless_they_are_the_published_ones(root, monkeypatch):
    class Trap:
        def __reduce__(self):
            return open, (str(root / "ran"), "w")

    put_cifar(root, monkeypatch, datasets.CIFAR10, ["a", "b"], "labels")
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        DataError, match=r"cifar10 is not in .*, or damaged. Get it: openmae pretrain"
    ):
        open_source("cifar10")
    assert not (root / "ran").exists()


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_mnist(root, name):
    folder = root / {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}[name] / "raw"
    folder.mkdir(parents=True)
    found = {}
    for part, count in (("train", 5), ("t10k", 3)):
        found[part] = images(count, 28, 28)
        header = struct.pack(">4i", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + found[part].tobytes())
        labels = struct.pack(">2i", 2049, count) + bytes([7, 1, 0, 1, 1][:count])
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    train, test = open_split(name)
    np.testing.assert_array_equal(train[4]["image"][..., 0], found["train"][4])
    np.testing.assert_array_equal(test[2]["image"][..., 0], found["t10k"][2])
    assert (train.labels.tolist(), len(train.classes)) == ([7, 1, 0, 1, 1], 10)
    assert train.classes[7] == ("7" if name == "mnist" else "Sneaker")


def test_svhn(root, monkeypatch):
    root.mkdir()
    table, found = {}, {}
    for part, count in (("train", 4), ("test", 2)):
        found[part] = images(32, 32, 3, count)
        path = root / f"{part}_32x32.mat"
        labels = np.array([[10], [3], [1], [1]][:count])
        scipy.io.savemat(path, {"X": found[part], "y": labels})
        table[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    train, test = open_split("svhn")
    np.testing.assert_array_equal(train[2]["image"], found["train"][..., 2])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 3, 1, 1], [0, 3])


def test_stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    found = {name: images(3, 96, 96, 3) for name in ("train", "test", "unlabeled")}
    for name, array in found.items():  # published with columns before rows
        (folder / f"{name}_X.bin").write_bytes(array.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes([2, 1, 10]))
    for name in ("train_list", "test_list"):
        sums = [[n, md5(folder / n)] for n, _ in getattr(datasets.STL10, name)]
        monkeypatch.setattr(datasets.STL10, name, sums)
    train, test = open_split("stl10")
    np.testing.assert_array_equal(train[1]["image"], found["train"][1])
    assert (test.labels.tolist(), test.classes[9]) == ([1, 0, 9], "j")
    more = open_source("stl10-unlabeled")
    np.testing.assert_array_equal(more[2]["image"], found["unlabeled"][2])
    assert (more.labels.tolist(), more.classes) == ([-1] * 3, [])


def test_flowers(root, monkeypatch):
    folder = root / "flowers-102"
    for number in range(1, 7):
        jpeg(folder / f"jpg/image_{number:05d}.jpg", number)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 2, 102, 1, 2, 3]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [3, 1], "valid": [2, 4], "tstid": [6, 5]})
    files = datasets.Flowers102._file_dict
    sums = {k: (n, md5(folder / n)) for k, (n, _) in files.items() if k != "image"}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files | sums)
    train, test = open_split("flowers102")
    assert train.labels.tolist() == [101, 0, 1, 0]
    assert [test.path(i)[-9:] for i in range(2)] == ["00006.jpg", "00005.jpg"]
    assert (len(train.classes), test[0]["image"].shape) == (102, (10, 12, 3))


def test_food_and_pets_and_eurosat(root):
    for i, name in enumerate(("a/1", "b/2", "a/3", "b/4")):
        jpeg(root / f"food-101/images/{name}.jpg", i)
    (root / "food-101/meta").mkdir()
    for part, names in (("train", ("1", "2")), ("test", ("3", "4"))):
        told = {"a": [f"a/{names[0]}"], "b": [f"b/{names[1]}"]}
        (root / f"food-101/meta/{part}.json").write_text(json.dumps(told))
    train, test = open_split("food101")
    assert [test.path(i) for i in range(2)] == [f"food-101/images/{n}.jpg" for n in ("a/3", "b/4")]
    assert (train.classes, train.labels.tolist()) == (["a", "b"], [0, 1])

    lines = {"trainval": ["Abyssinian_1 1 1 1", "pug_2 2 2 1"], "test": ["pug_3 2 2 1"]}
    for part, rows in lines.items():
        (root / "oxford-iiit-pet/annotations").mkdir(parents=True, exist_ok=True)
        (root / f"oxford-iiit-pet/annotations/{part}.txt").write_text("\n".join(rows))
        for row in rows:
            jpeg(root / f"oxford-iiit-pet/images/{row.split()[0]}.jpg", 1)
    assert open_source("pets").classes == ["Abyssinian", "Pug"]
    assert open_source("pets", split="test").labels.tolist() == [1]

    for i in range(20):
        jpeg(root / f"eurosat/2750/{'Forest' if i % 2 else 'River'}/{i}.jpg", i)
    train, test = open_split("eurosat", fraction=0.5)  # without a split of its own: by hash
    assert (len(train) + len(test), train.classes) == (20, ["Forest", "River"])


# What is said.


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_not_there(root, name):
    with pytest.raises(DataError) as error:
        open_source(name)
    assert str(error.value) == (
        f"{name} is not in {root}, or damaged. Get it: openmae pretrain {name}:download --dry-run"
    )
    assert not root.exists()


def test_nothing_is_downloaded_unless_told_to(root, monkeypatch):
    asked = []

    def fetch(*words, **_):
        asked.append(words[0])
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    with pytest.raises(DataError, match="is not in"):
        open_source("cifar10")
    assert asked == []
    with pytest.raises(DataError, match=r"^cifar10 cannot be downloaded to .*: no network$"):
        open_source("cifar10:download")
    assert asked == [datasets.CIFAR10.url]


def test_words(root, tmp_path):
    with pytest.raises(DataError, match="only :download may stand behind the name"):
        open_source("mnist:get")
    with pytest.raises(DataError, match="does not exist"):
        open_source("cifar")
    (tmp_path / "mnist").mkdir()
    jpeg(tmp_path / "mnist/own.jpg", 3)
    assert open_source("mnist").path(0) == "own.jpg"  # a path of that name wins


def test_where_they_lie(root, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENMAE_DATA_CACHE")
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=rf"is not in {tmp_path}/cache/torchvision, or"):
        open_source("cifar10")
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPENMAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cifar10: no folder for it. Set OPENMAE_DATA_CACHE"):
        open_source("cifar10")
