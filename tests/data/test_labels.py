"""Labels from a table: what is read, and what is said of the commonest mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openmae.data.labels import labelled, open_labelled_split
from openmae.data.values import Decoding
from openmae.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Ten images in a folder and below it."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for i in range(10):
        name = f"sub/{i}.png" if i % 2 else f"{i}.png"
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(root / name)
    return root


def table(folder, lines: list[str], head: str = "path,label", name: str = "labels.csv") -> str:
    path = folder.parent / name
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8-sig")
    return str(path)


NAMES = [f"sub/{i}.png" if i % 2 else f"{i}.png" for i in range(10)]


def test_single_labels(folder):
    lines = [f"{name},{'cat' if i < 5 else 'ant'}" for i, name in enumerate(NAMES)]
    found = labelled(str(folder), table(folder, lines), Decoding(3))
    assert found.classes == ["ant", "cat"]
    number = {found.path(i): int(found.labels[i]) for i in range(10)}
    assert number["0.png"] == 1
    assert number["sub/9.png"] == 0
    assert found[0]["label"] == found.labels[0]
    assert found.subset([1, 2]).labels.tolist() == found.labels[[1, 2]].tolist()


def test_another_label_is_another_data_set(folder):
    lines = [f"{name},{i % 2}" for i, name in enumerate(NAMES)]
    first = list(labelled(str(folder), table(folder, lines)).listing())
    lines[0] = f"{NAMES[0]},1"
    assert list(labelled(str(folder), table(folder, lines)).listing()) != first


def test_several_labels(folder):
    lines = [f"{n},red;round" if i < 3 else f"{n},blue|red" for i, n in enumerate(NAMES)]
    found = labelled(str(folder), table(folder, lines), Decoding(3), multi_label=True)
    assert found.classes == ["blue", "red", "round"]
    row = [found.path(i) for i in range(10)].index("0.png")
    assert found.labels[row].tolist() == [0, 1, 1]
    assert found[row]["label"].tolist() == [0, 1, 1]
    assert found.labels.dtype == np.float32


def test_a_column_says_the_split(folder):
    lines = [f"{n},{i % 2},{'train' if i < 7 else 'val'}" for i, n in enumerate(NAMES)]
    train, test = open_labelled_split(str(folder), table(folder, lines, "path,label,split"))
    assert (len(train), len(test)) == (7, 3)
    lines[0] = f"{NAMES[0]},0,extra"
    with pytest.raises(DataError, match="split 'extra' should be train or test"):
        open_labelled_split(str(folder), table(folder, lines, "path,label,split"))


def test_without_the_column_by_hash(folder):
    lines = [f"{n},{i % 2}" for i, n in enumerate(NAMES)]
    parts = open_labelled_split(str(folder), table(folder, lines), fraction=0.5)
    paths = [{p.path(i) for i in range(len(p))} for p in parts]
    assert paths[0] | paths[1] == set(NAMES)
    assert not paths[0] & paths[1]


def test_paths_may_be_relative_to_the_table(folder):
    lines = [f"images/{n},{i % 2}" for i, n in enumerate(NAMES)]
    assert len(labelled(str(folder), table(folder, lines))) == 10


def test_a_linked_image_keeps_its_own_name(folder, tmp_path):
    outside = tmp_path / "outside.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(outside)
    (folder / "link.png").symlink_to(outside)
    found = labelled(str(folder), table(folder, ["link.png,a", "0.png,b"]), Decoding(3))
    assert sorted(found.path(i) for i in range(2)) == ["0.png", "link.png"]
    assert found[1]["image"].shape == (8, 8, 3)


def test_a_table_may_know_the_folder_by_its_true_name(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    lines = [f"images/{n},{i % 2}" for i, n in enumerate(NAMES)]
    assert len(labelled(str(tmp_path / "link"), table(folder, lines))) == 10
    lines = [f"{folder / n},{i % 2}" for i, n in enumerate(NAMES)]
    assert len(labelled(str(folder), table(folder, lines))) == 10


MISTAKES = {
    "missing": (["path,label", "0.png,a", "IMG 01.jpg,b"], "1 of 2 names not found .first: IMG 01"),
    "columns": (["name,label", "0.png,a"], "no column 'path'"),
    "nearly": (["filenames,label", "0.png,a"], "Rename filenames"),
    "labels": (["path,labels", "0.png,a"], "Rename labels"),
    "empty label": (["path,label", "0.png,a", "2.png,"], "line 3 has no path or no label"),
    "twice": (["path,label", "0.png,a", "0.png,b"], "twice with different labels"),
    "one": (["path,label", "0.png,a", "2.png,a"], "only one class"),
    "nothing": (["path,label"], "no lines below its first"),
    "outside": (["path,label", "../../etc/passwd,a", "0.png,b"], "1 of 2 names not found"),
    "beside": (["path,label", "../out.png,a", "0.png,b"], "1 of 2 names not found"),
    "a nul": (["path,label", "0\0.png,a", "0.png,b"], "labels.csv"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, folder):
    lines, text = MISTAKES[name]
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder.parent / "out.png")
    with pytest.raises(DataError, match=text) as error:
        labelled(str(folder), table(folder, lines[1:], lines[0]))
    assert "labels.csv" in str(error.value)


def test_other_names_of_columns_and_other_tables(folder):
    lines = [f"{n},{i % 2}" for i, n in enumerate(NAMES)]
    expected = labelled(str(folder), table(folder, lines)).labels.tolist()
    for head, mark in (
        ("Image_Path,CLASS", ","),
        ("file;category", ";"),
        ("filename\tlabel", "\t"),
    ):
        path = table(folder, [line.replace(",", mark) for line in lines], head)
        assert labelled(str(folder), path).labels.tolist() == expected
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pq.write_table(
        pa.table({"file": NAMES, "label": [i % 2 for i in range(10)]}), folder.parent / "l.parquet"
    )
    found = labelled(str(folder), str(folder.parent / "l.parquet"))
    assert (found.classes, found.labels.tolist()) == (["0", "1"], expected)


def test_val_beside_test_belongs_to_neither(folder):
    words = ["train"] * 4 + ["val"] * 3 + ["test"] * 3
    lines = [f"{n},{i % 2},{w}" for i, (n, w) in enumerate(zip(NAMES, words, strict=True))]
    parts = open_labelled_split(str(folder), table(folder, lines, "path,label,split"))
    assert [[p.path(i) for i in range(len(p))] for p in parts] == [
        sorted(NAMES[:4]),
        sorted(NAMES[7:]),
    ]
    lines = [f"{n},{i % 2},train" for i, n in enumerate(NAMES)]
    with pytest.raises(DataError, match="needs both train and test"):
        open_labelled_split(str(folder), table(folder, lines, "path,label,split"))


def test_no_table(folder):
    with pytest.raises(DataError, match=r"no\.csv cannot be read"):
        labelled(str(folder), str(folder / "no.csv"))
