"""What members of archives are: samples, labels, what is left out."""

from __future__ import annotations

import pytest
from archives import paths, photos, png, tar

from openmae.data.members import Gather, clean
from openmae.data.sources import open_source


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("a/b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("/etc/x.png", "etc/x.png"),
        ("../../x.png", "__/__/x.png"),
        ("a\nb\t\x1b[2J.png", "a_b__[2J.png"),
        ("\udcff.png", "\udcff.png"),
    ],
)
def test_names_are_safe_to_show(raw, name):
    assert clean(raw) == name


def test_labels_from_cls_are_numbers_or_names(tmp_path):
    files = {}
    for i, label in enumerate((2, 10, 0, 2)):
        files |= {f"{i:04d}.png": png(i), f"{i:04d}.cls": str(label).encode(), f"{i:04d}.txt": b"x"}
    source = open_source(str(tar(tmp_path / "numbers.tar", files)))
    assert source.classes == ["0", "2", "10"]
    assert source.labels.tolist() == [1, 2, 0, 1]
    assert list(source.listing())[1] == f"numbers.tar/0001.png\t{len(png(1))}\t10"
    words = {b"2": b"cat\n", b"10": b"dog", b"0": b"dog"}
    names = {n: words.get(b, b) for n, b in files.items()}
    source = open_source(str(tar(tmp_path / "names.tar", names)))
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [0, 1, 1, 0]


def test_the_label_may_stand_behind_or_before_its_image_in_a_folder(tmp_path):
    files = {"x/1.cls": b"7", "x/1.left.png": png(1), "y/1.png": png(2), "y/1.cls": b"8"}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert (source.classes, source.labels.tolist()) == (["7", "8"], [0, 1])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b'{"label": 3}', "3"),
        (b'{"label": "cat", "caption": "a cat"}', "cat"),
        (b'{"label": true}', None),
        (b'{"label": [1]}', None),
        (b'{"width": 9}', None),
        (b"[1, 2]", None),
        (b"{broken", None),
        (b"[" * 100_000, None),
        (b"\xff\xfe", None),
        (b'{"label": ' + b"9" * 5000 + b"}", None),
        (b"", None),
    ],
)
def test_a_label_in_json(tmp_path, text, label):
    files = {"1.png": png(1), "1.json": text, "2.png": png(2), "2.cls": b"dog"}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert [source.label_text(row) for row in (0, 1)] == [label or "", "dog"]


def test_cls_counts_before_json_and_labels_before_folders(tmp_path):
    files = {"a/1.png": png(1), "a/1.json": b'{"label": 5}', "a/1.cls": b"4"}
    files |= {"b/2.png": png(2), "b/2.json": b'{"label": 5}'}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert (source.classes, source.labels.tolist()) == (["4", "5"], [0, 1])


def test_a_label_without_end_is_none(tmp_path):
    files = {"1.png": png(1), "1.cls": b"x" * 5000, "2.png": png(2), "2.cls": b"y"}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert (source.classes, source.labels.tolist()) == (["y"], [-1, 0])


@pytest.mark.parametrize("second", [".seg.png", ".png", ".thumb.jpg"])
def test_second_images_of_most_samples_are_no_images(tmp_path, second):
    files = {}
    for i in range(4):
        files |= {f"{i}.jpg": png(i), f"{i}{second}": png(i + 10), f"{i}.cls": b"0"}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert paths(source) == [f"x.tar/{i}.jpg" for i in range(4)]
    assert source.left_out == 4


def test_names_with_dots_are_images(tmp_path):
    names = [f"{year}.{month:02d}.png" for year in (2023, 2024) for month in range(1, 4)]
    names += ["cat.png", "cat.old.png", "dog.png", "fox.png"]
    source = open_source(str(tar(tmp_path / "x.tar", {n: png(1) for n in names})))
    assert paths(source) == [f"x.tar/{n}" for n in sorted(names)]
    assert source.left_out == 0


def test_hidden_and_other_members_are_left_out(tmp_path):
    files = {"a.png": png(1), "._a.png": b"", "x/.b/c.png": png(2), "__MACOSX/d.png": b""}
    inner = tar(tmp_path / "i.tar", {"z.png": png(3)}).read_bytes()
    files |= {"notes.txt": b"", "inner.tar": inner}
    assert paths(open_source(str(tar(tmp_path / "x.tar", files)))) == ["x.tar/a.png"]


def test_training_and_test_part(tmp_path):
    names = [f"set/{part}/{name}" for part in ("train", "val") for name in photos()]
    files = {name: png(i) for i, name in enumerate(names)}
    source = open_source(str(tar(tmp_path / "x.tar", files)))
    assert source.classes == ["a", "a-b", "c"]
    assert source.table_splits.tolist() == [0] * 12 + [1] * 12
    for name in ("train-000.tar", "train-001.tar", "val-000.tar"):
        tar(tmp_path / "wds" / name, {"1.png": png(1), "1.cls": b"3"})
    source = open_source(str(tmp_path / "wds"))
    assert source.table_splits.tolist() == [0, 0, 1]
    assert open_source(str(tar(tmp_path / "y.tar", photos()))).table_splits is None


def test_a_long_index_says_how_far_it_is(monkeypatch, capsys):
    gathered = Gather("x.tar")
    monkeypatch.setattr("openmae.data.members._PATIENCE", -1.0)
    for i in range(8192 * 2):
        gathered.add(f"{i}.txt", 0, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "openmae: indexing x.tar, 8,192 members so far"
    assert len(lines) == 2
