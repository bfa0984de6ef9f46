"""Lists of files: CSV, TSV, one path a line. What they say, and what is said of mistakes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from openmae.data.sources import open_source, open_split
from openmae.errors import DataError

NAMES = [f"img/{i}.png" for i in range(8)]


@pytest.fixture
def here(tmp_path):
    """A folder with img/0.png ... img/7.png; the value of an image is its number."""
    (tmp_path / "img").mkdir()
    for i, name in enumerate(NAMES):
        Image.new("L", (6, 4), i).save(tmp_path / name)
    return tmp_path


def put(folder, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


def test_order_labels_and_names_are_those_of_the_table(here):
    lines = [f"{n},{'cat' if i % 2 else 'ant'},x" for i, n in enumerate(reversed(NAMES))]
    source = open_source(put(here, "list.csv", "path,label,other", *lines))
    assert paths(source) == list(reversed(NAMES))
    assert (source.classes, source.labels.tolist()) == (["ant", "cat"], [0, 1] * 4)
    assert source[0]["image"].tolist() == [[[7]] * 6] * 4
    assert source.subset([5])[0]["label"] == 1
    assert source.name.endswith("list.csv")


@pytest.mark.parametrize(
    ("name", "head", "mark"),
    [
        ("a.csv", "FILE,Class", ","),
        ("a.csv", "\ufefffilename,category", ","),
        ("a.csv", "label;image", ";"),
        ("a.tsv", "image_path\tlabel", "\t"),
        ("a.tsv", "path,label", ","),
        ("a.CSV", '"path","label"', ","),
    ],
)
def test_names_of_columns_and_marks_between_them(here, name, head, mark):
    turned = head.startswith("label")
    rows = [(n, str(i % 2)) for i, n in enumerate(NAMES)]
    lines = [mark.join(reversed(r) if turned else r) for r in rows]
    source = open_source(put(here, name, head, *lines))
    assert (paths(source), source.labels.tolist()) == (NAMES, [0, 1] * 4)


def test_a_list_of_paths_has_no_labels(here):
    source = open_source(
        put(here, "list.txt", NAMES[3], "", f"  {NAMES[1]} ", str(here / NAMES[2]))
    )
    assert paths(source) == [NAMES[3], NAMES[1], NAMES[2]]  # absolute below the folder: the same
    assert source.labels.tolist() == [-1] * 3
    assert source.classes == []


def test_absolute_paths_elsewhere(here, tmp_path_factory):
    other = tmp_path_factory.mktemp("lists")
    source = open_source(put(other, "list.txt", *(str(here / n) for n in NAMES)))
    assert paths(source) == [str(here / n) for n in NAMES]
    assert source[3]["image"].max() == 3
    relative = os.path.relpath(here / NAMES[0], other)
    assert paths(open_source(put(other, "up.txt", relative))) == [str(here / NAMES[0])]


def test_some_labels_may_be_missing_until_a_task_needs_them(here):
    lines = [f"{n},{'' if i == 2 else i % 2}" for i, n in enumerate(NAMES)]
    path = put(here, "list.csv", "path,label", *lines)
    assert open_source(path).labels.tolist() == [0, 1, -1, 1, 0, 1, 0, 1]
    with pytest.raises(DataError, match=r"1 of 8 images in .* have no label\. knn needs one"):
        open_split(path, task="knn")


def test_a_label_is_part_of_the_listing(here):
    first = list(
        open_source(put(here, "a.csv", "path,label", *(f"{n},{n}" for n in NAMES))).listing()
    )
    lines = [f"{n},{NAMES[0] if n == NAMES[5] else n}" for n in NAMES]
    second = list(open_source(put(here, "a.csv", "path,label", *lines)).listing())
    assert [a == b for a, b in zip(first, second, strict=True)][:6] == [True] * 5 + [False]


def test_the_same_line_twice_counts_once(here):
    assert len(open_source(put(here, "list.txt", *NAMES, NAMES[0], f"./{NAMES[1]}"))) == 8
    with pytest.raises(DataError, match="stands there twice with different labels"):
        open_source(put(here, "a.csv", "path,label", f"{NAMES[0]},a", f"{NAMES[0]},b"))


# Splits.


def test_the_split_of_the_table(here):
    words = ["train", "TRAIN", "test", "train", "val", "test", "training", "train"]
    lines = [f"{n},{i % 2},{w}" for i, (n, w) in enumerate(zip(NAMES, words, strict=True))]
    path = put(here, "list.csv", "path,label,split", *lines)
    train, test = open_split(path)
    assert [paths(train), paths(test)] == [
        [NAMES[i] for i in (0, 1, 3, 6, 7)],
        [NAMES[i] for i in (2, 5)],
    ]
    assert paths(open_source(path)) == paths(train)
    assert paths(open_source(path, split="test")) == paths(test)
    assert paths(open_source(path, split="all")) == NAMES
    assert train.subset([1, 2]).labels.tolist() == [1, 1]


def test_a_split_of_one_part_says_nothing(here):
    lines = [f"{n},{i % 2},train" for i, n in enumerate(NAMES)]
    path = put(here, "list.csv", "path,label,split", *lines)
    assert len(open_source(path, split="test")) == 8
    train, test = open_split(path, fraction=0.5)  # by hash
    assert sorted(paths(train) + paths(test)) == NAMES


# What is said.

MISTAKES = {
    "no path": ("a.csv", ["name,label", "0.png,a"], "no column 'path' in its first .* name, label"),
    "nearly": ("a.csv", ["Image-Path,y", "0.png,a"], "Rename Image-Path\\?"),
    "no header": ("a.csv", [f"{NAMES[0]},a"], "no column 'path'"),
    "gone": ("a.csv", ["path", "img/x.png", *NAMES, "y"], "2 of 10 files not found .first: img/x"),
    "gone too": ("a.txt", ["x.png", *NAMES], "1 of 9 files not found .first: x.png"),
    "a folder": ("a.txt", ["img"], "1 of 1 files not found"),
    "a pipe": ("a.txt", ["pipe.png"], "1 of 1 files not found"),
    "empty": ("a.csv", ["path,label"], "no lines below its first"),
    "nothing": ("a.csv", [], "no column 'path' in its first line .it has: nothing"),
    "no list": ("a.txt", ["", " "], "has no lines$"),
    "no name": ("a.csv", ["path,label", f"{NAMES[0]},a", ",b"], "line 3 has no path .1 such"),
    "split": ("a.csv", ["path,split", f"{NAMES[0]},early"], "split 'early' should be train"),
    "huge": ("a.csv", ["path", "x" * 200_000], "a.csv cannot be read: field larger"),
    "nul": ("a.csv", ["path", "a\0b"], "a.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, here):
    file, lines, text = MISTAKES[name]
    os.mkfifo(here / "pipe.png")
    with pytest.raises(DataError, match=text) as error:
        open_source(put(here, file, *lines))
    assert file in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("head", "lines", "text"),
    [
        ("path", ["{}"], "No labels in .*a.csv. probe needs >= 2: a label for each image"),
        ("path,label", ["{},cat"], r"Only one class \(cat\) in"),
        ("path,label,split", ["{},cat,train"] * 7 + ["{},dog,test"], None),
    ],
)
def test_too_few_classes(here, head, lines, text):
    rows = [line.format(n) for line, n in zip(lines * 8, NAMES, strict=False)]
    path = put(here, "a.csv", head, *rows)
    if text is None:  # two classes in all; that one part has one only is for the task to say
        assert [len(p) for p in open_split(path, task="probe")] == [7, 1]
        return
    with pytest.raises(DataError, match=text):
        open_split(path, task="probe")


def test_a_file_that_goes_away_later_is_a_bad_image(here):
    source = open_source(put(here, "list.txt", *NAMES))
    (here / NAMES[4]).unlink()
    with pytest.raises(DataError, match="No such file"):
        source[4]
    assert source[5]["image"].dtype == np.uint8


def test_names_that_are_not_utf8(here):
    name = b"img/b\xff.png"
    os.rename(here / NAMES[0], os.path.join(os.fsencode(here), name))
    (here / "list.txt").write_bytes(name + b"\n")
    source = open_source(str(here / "list.txt"))
    assert paths(source) == ["img/b\udcff.png"]
    assert source[0]["image"].shape == (4, 6, 1)
