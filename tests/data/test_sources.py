"""Folders as sources: what is found, in which order, how it is split, and what is said."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from openmae.data.sources import (
    Cached,
    digits,
    hash_split,
    open_source,
    open_split,
    require_classes,
)
from openmae.data.walk import walk
from openmae.errors import DataError


def put(root, *names: str) -> None:
    """A small gray image for each name; its value is its number."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), number).save(path)


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


# What is found.


def test_flat(tmp_path):
    put(tmp_path, "b.png", "a.jpg", "C.PNG", "10.png", "9.png")
    source = open_source(str(tmp_path))
    assert paths(source) == ["10.png", "9.png", "C.PNG", "a.jpg", "b.png"]
    assert source.classes == []
    assert source.labels.tolist() == [-1] * 5
    sample = source[4]
    assert (sample["path"], sample["id"], sample["label"]) == ("b.png", 4, -1)
    assert sample["image"].shape == (4, 6, 1)
    assert not sample["image"].any()


def test_nested(tmp_path):
    put(tmp_path, "x.png", "2024/may/b.png", "2024/a.png", "2023/z.png")
    source = open_source(str(tmp_path))
    assert paths(source) == ["2023/z.png", "2024/a.png", "2024/may/b.png", "x.png"]
    assert source.classes == []  # x.png lies outside any folder
    assert source.header(0) == (4, 6, 1, "uint8", "PNG")


def test_class_folders(tmp_path):
    put(tmp_path, "dog/1.png", "cat/2.png", "cat/deep/3.png", "ant/4.png")
    source = open_source(str(tmp_path))
    assert source.classes == ["ant", "cat", "dog"]
    assert source.labels.tolist() == [0, 1, 1, 2]
    assert [source[i]["label"] for i in range(4)] == [0, 1, 1, 2]


def test_hidden_and_other_files_are_left_out(tmp_path):
    put(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "sub/._a.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "README").write_text("")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    found = walk(tmp_path)
    files, others, folders = list(found.files), found.others, found.folders
    assert files == ["a.png"]
    assert others == {".txt": 1, "(no suffix)": 1}
    assert folders == 2  # sub and folder.png


def test_symlink_loops_end(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    assert list(walk(tmp_path).files) == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(("real", "link"), [("a", "z"), ("z", "a")])
def test_a_linked_folder_counts_once_under_its_own_name(tmp_path, real, link):
    put(tmp_path, f"{real}/1.png", f"{real}/2.png", "m/3.png")
    (tmp_path / link).symlink_to(tmp_path / real)
    assert list(walk(tmp_path).files) == sorted([f"{real}/1.png", f"{real}/2.png", "m/3.png"])


def test_links_out_of_the_folder_are_followed(tmp_path):
    put(tmp_path / "elsewhere", "1.png", "2.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog").mkdir()
    (tmp_path / "data" / "dog" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    source = open_source(str(tmp_path / "data"))
    assert paths(source) == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert source[2]["image"].shape == (4, 6, 1)


def test_name_that_is_not_utf8(tmp_path):
    put(tmp_path, "a.png", "b.png")
    os.rename(os.fsencode(tmp_path / "b.png"), os.fsencode(tmp_path) + b"/b\xff.png")
    source = open_source(str(tmp_path))
    assert paths(source) == ["a.png", "b\udcff.png"]
    assert source[1]["image"].shape == (4, 6, 1)
    assert [line.split("\t")[0] for line in source.listing()] == ["a.png", "b\udcff.png"]
    assert len(open_source(str(tmp_path)).subset([1])) == 1


def test_home_is_expanded(tmp_path, monkeypatch):
    put(tmp_path / "pictures", "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("~/pictures")) == 1


# What is said.


def said(data) -> str:
    with pytest.raises(DataError) as found:
        open_source(str(data))
    return str(found.value)


def test_missing(tmp_path):
    put(tmp_path, "photos/a.png", "scans/b.png")
    assert said(tmp_path / "photo") == (
        f"{tmp_path}/photo does not exist. {tmp_path} has: photos/ scans/."
        f" Did you mean {tmp_path}/photos?"
    )
    assert said(tmp_path / "no" / "where") == (
        f"{tmp_path}/no/where does not exist, nor does {tmp_path}/no"
    )


def test_empty(tmp_path):
    (tmp_path / "sub").mkdir()
    assert said(tmp_path) == (
        f"{tmp_path} has 0 images (1 folders; found no files). Give the folder that holds the"
        " images"
    )
    for name in ("a.psd", "b.PSD", "c.txt"):
        (tmp_path / name).touch()
    assert said(tmp_path) == (
        f"{tmp_path} has 0 images (1 folders; found 2 .psd, 1 .txt). Convert them to JPEG or PNG"
    )


@pytest.mark.parametrize(("name", "folder"), [("cifar.7z", "cifar"), ("x.rar", "x")])
def test_archive(tmp_path, name, folder):
    (tmp_path / name).touch()
    assert said(tmp_path / name) == (
        f"{tmp_path}/{name} is an archive. Unpack it, then give the folder: {tmp_path}/{folder}/"
    )


def test_file(tmp_path):
    put(tmp_path, "a.png")
    assert said(tmp_path / "a.png") == (
        f"{tmp_path}/a.png is a file. Give the folder that holds the images: {tmp_path}/"
    )


def test_too_few_classes(tmp_path):
    put(tmp_path, "flat/a.png", "one/cat/a.png", "two/cat/a.png", "two/dog/b.png")
    for folder, start in (("flat", "No class folders in"), ("one", "Only one class folder (")):
        with pytest.raises(DataError, match="needs >= 2") as found:
            require_classes(open_source(str(tmp_path / folder)), "probe")
        assert str(found.value).startswith(start)
    assert require_classes(open_source(str(tmp_path / "two")), "probe") is None


# Splits.


@pytest.mark.parametrize(
    ("first", "second"), [("train", "test"), ("train", "val"), ("training", "validation")]
)
def test_train_and_test_folders(tmp_path, first, second):
    put(tmp_path, f"{first}/cat/1.png", f"{first}/dog/2.png", f"{second}/cat/3.png")
    put(tmp_path, f"{second}/dog/4.png", "other/cat/5.png")
    train, test = open_split(str(tmp_path))
    assert (paths(train), paths(test)) == (["cat/1.png", "dog/2.png"], ["cat/3.png", "dog/4.png"])
    assert train.classes == test.classes == ["cat", "dog"]


def test_train_and_test_with_other_classes(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/fox/4.png")
    with pytest.raises(DataError, match=r"hold different class folders: dog, fox$"):
        open_split(str(tmp_path))


def test_hash_split_stays_when_files_are_added(tmp_path):
    put(tmp_path, *(f"{'ab'[i % 2]}/{i:03d}.png" for i in range(300)))
    before = [set(paths(part)) for part in open_split(str(tmp_path))]
    put(tmp_path, *(f"{'abc'[i % 3]}/more{i:03d}.png" for i in range(100)))
    after = [set(paths(part)) for part in open_split(str(tmp_path))]
    assert 40 <= len(before[1]) <= 80  # 60 of 300 on average, standard deviation 7
    assert not before[0] & before[1]
    assert len(before[0] | before[1]) == 300
    assert before[0] < after[0]
    assert before[1] < after[1]


def test_hash_split_needs_images(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"has 1 images: too few to hold out 0.5 of them$"):
        hash_split(open_source(str(tmp_path)), 0.5)


def test_subset_keeps_class_numbers(tmp_path):
    put(tmp_path, "ant/1.png", "bee/2.png", "cat/3.png", "cat/4.png")
    part = open_source(str(tmp_path)).subset([3, 1])
    assert part.classes == ["ant", "bee", "cat"]
    assert part.labels.tolist() == [2, 1]
    assert paths(part) == ["cat/4.png", "bee/2.png"]
    assert part.subset([0]).labels.tolist() == [2]


# Digits.


def test_digits():
    train, test = open_split("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert not set(paths(train)) & set(paths(test))
    assert train.classes == [str(d) for d in range(10)]
    assert (len(open_source("digits")), len(open_source("digits", split="test"))) == (1437, 360)
    image = train[0]["image"]
    assert (image.shape, image.dtype) == ((8, 8, 1), np.uint8)
    assert train.header(0) == (8, 8, 1, "uint8", "")
    assert digits().images.max() == 255


def test_listing_tells_content_or_size(tmp_path):
    put(tmp_path, "a.png")
    size = (tmp_path / "a.png").stat().st_size
    assert list(open_source(str(tmp_path)).listing()) == [f"a.png\t{size}"]
    train, test = open_split("digits")
    assert list(train.listing()) != list(test.listing())


def test_cached_decodes_once(tmp_path):
    put(tmp_path, "a.png", "b.png")
    cached = Cached(open_source(str(tmp_path)))
    first = cached[1]
    (tmp_path / "b.png").unlink()
    assert cached[1] is first
    assert (len(cached), cached.path(0)) == (2, "a.png")
