"""Parquet as a source: images as bytes by row group, paths, splits, classes, damaged files."""

from __future__ import annotations

import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from openmae.data import columns, parquet
from openmae.data.sources import open_source, open_split
from openmae.errors import DataError, UsageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def png(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, value).save(out, "PNG")
    return out.getvalue()


def write(path, rows: int = 10, first: int = 0, /, group: int = 4, meta=None, **columns) -> str:
    """A file of images whose value is their number; further columns as given."""
    cells = {"image": [{"bytes": png(first + i), "path": None} for i in range(rows)]}
    cells |= {name: found for name, found in columns.items() if found is not None}
    cells = {name: found for name, found in cells.items() if columns.get(name, 0) is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(cells)
    if meta is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(meta)})
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def values(source) -> list[int]:
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


def test_every_row_of_every_group_and_file(tmp_path):
    write(tmp_path / "set/data/b-0.parquet", 10, 0)
    write(tmp_path / "set/data/b-1.parquet", 7, 10, group=3)
    write(tmp_path / "set/z.parquet", 1, 17)  # the first folder with Parquet decides, all count
    source = open_source(str(tmp_path / "set"))
    assert values(source) == list(range(18))
    assert paths(source)[9:11] == ["data/b-0.parquet/00000009", "data/b-1.parquet/00000000"]
    assert len(set(paths(source))) == 18
    order = np.random.default_rng(0).permutation(18)
    assert values(source.subset(order)) == order.tolist()
    assert source.header(0)[:3] == (4, 6, 1)
    size = os.path.getsize(tmp_path / "set/data/b-1.parquet")
    name = "data/b-1.parquet"
    assert list(source.listing())[11] == f"{name}/00000001\t{name}\t{size}\t1"


@pytest.mark.parametrize("kind", ["bytes", "image", "large", "struct", "other struct"])
def test_forms_of_bytes(tmp_path, kind):
    cells = [png(i) for i in range(5)]
    if kind.endswith("struct"):
        name = "image" if kind == "struct" else "picture"
        columns = {name: [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(cells)]}
    else:
        form = pa.large_binary() if kind == "large" else pa.binary()
        columns = {"bytes" if kind == "large" else kind: pa.array(cells, form)}
        columns["path"] = [f"{i}.png" for i in range(5)]
    path = write(tmp_path / "a.parquet", 5, **{"image": None, **columns})
    source = open_source(path)
    assert values(source) == list(range(5))
    assert paths(source) == [f"{i}.png" for i in range(5)]


def test_names_that_are_not_unlike_are_not_used(tmp_path):
    cells = [{"bytes": png(i), "path": "same.png"} for i in range(3)]
    source = open_source(write(tmp_path / "a.parquet", 3, image=cells))
    assert paths(source) == [f"a.parquet/{i:08d}" for i in range(3)]


def test_labels(tmp_path):
    source = open_source(write(tmp_path / "a.parquet", 4, label=[10, 2, None, 2]))
    assert (source.classes, source.labels.tolist()) == (["2", "10"], [1, 0, -1, 0])
    words = pa.array(["b", "a", "a", ""]).dictionary_encode()
    source = open_source(write(tmp_path / "a.parquet", 4, Category=words))
    assert (source.classes, source.labels.tolist()) == (["a", "b"], [1, 0, 0, -1])
    source = open_source(write(tmp_path / "a.parquet", 4, label=[[1, 2], [], [1], [2]]))
    assert source.classes == []  # several an image: not a label
    told = {"info": {"features": {"label": {"names": ["no", "yes", "x"], "_type": "ClassLabel"}}}}
    source = open_source(write(tmp_path / "a.parquet", 4, label=[1, 0, -1, 7], meta=told))
    assert (source.classes, source.labels.tolist()) == (["no", "yes", "x"], [1, 0, -1, -1])
    assert next(source.listing()).endswith("\t1")


def test_paths(tmp_path):
    (tmp_path / "img").mkdir()
    for i in range(6):
        (tmp_path / f"img/{i}.png").write_bytes(png(i))
    names = [f"img/{i}.png" for i in range(6)]
    words = ["train"] * 4 + ["test"] * 2
    path = write(tmp_path / "a.parquet", 0, image=None, path=names, label=[0, 1] * 3, split=words)
    train, test = open_split(path)
    assert (values(train), values(test)) == ([0, 1, 2, 3], [4, 5])
    assert paths(test) == names[4:]
    write(tmp_path / "tables/deep/a.parquet", 0, image=None, file=[f"../../{n}" for n in names])
    source = open_source(str(tmp_path / "tables"))
    assert values(source) == list(range(6))


def test_splits_by_names_of_files(tmp_path):
    write(tmp_path / "data/test-00000-of-00001.parquet", 2, 20, label=[0, 1])
    write(tmp_path / "data/train-00000-of-00002.parquet", 3, 0, label=[0, 1, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", 3, 3, label=[0, 1, 1])
    write(tmp_path / "data/validation-00000-of-00001.parquet", 1, 30, label=[0])
    train, test = open_split(str(tmp_path))
    assert (values(train), values(test)) == (list(range(6)), [20, 21])
    assert values(open_source(str(tmp_path))) == list(range(6))


def test_a_folder_with_images_is_a_folder_of_images(tmp_path):
    write(tmp_path / "metadata.parquet", 3)
    (tmp_path / "a.png").write_bytes(png(1))
    assert paths(open_source(str(tmp_path))) == ["a.png"]
    write(tmp_path / "two/cat/meta.parquet", 3)
    (tmp_path / "two/dog").mkdir()
    (tmp_path / "two/dog/a.png").write_bytes(png(1))
    assert paths(open_source(str(tmp_path / "two"))) == ["dog/a.png"]


def test_few_groups_are_kept_and_none_travel(tmp_path, monkeypatch):
    source = open_source(write(tmp_path / "a.parquet", 12, group=2))
    read = []
    real = parquet.read_group
    monkeypatch.setattr(parquet, "read_group", lambda *a: read.append(a[2]) or real(*a))
    assert values(source) == list(range(12))
    assert values(source.subset([3, 2, 11])) == [3, 2, 11]
    assert read == list(range(6))
    monkeypatch.setattr(parquet, "_KEEP", 1)
    source = open_source(str(tmp_path / "a.parquet"))
    values(source.subset([1, 0, 5, 4, 1]))
    assert read == [*range(6), 0, 2, 0]
    assert len(source._groups._kept) == 1
    again = pickle.loads(pickle.dumps(source))
    assert len(again._groups._kept) == 0
    assert values(again) == list(range(12))


def test_few_files_are_kept_open(tmp_path, monkeypatch):
    for i in range(5):
        write(tmp_path / f"{i}.parquet", 2, 2 * i)
    monkeypatch.setattr(parquet, "_OPEN", 2)
    monkeypatch.setattr(parquet, "_KEEP", 1)
    source = open_source(str(tmp_path))
    assert values(source) == list(range(10))
    assert [p.name for p in source._groups._files] == ["3.parquet", "4.parquet"]
    assert values(source.subset([0, 9, 4])) == [0, 9, 4]


def test_only_the_columns_that_are_needed_are_read(tmp_path, monkeypatch):
    cells = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)]
    more = {"label": [0, 1, 0, 1], "other": ["x" * 100] * 4}
    path = write(tmp_path / "a.parquet", 4, image=cells, **more)
    asked = []
    real = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, **k: asked.append(k["columns"]) or real(self, **k)
    )
    open_source(path)
    assert asked == [["image.path", "label"]]


# What is said.


def test_mistakes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 4)

    def said(text: str) -> None:
        with pytest.raises(DataError, match=text) as error:
            open_source(path)
        assert "a.parquet" in str(error.value)
        assert len(str(error.value)) < 500

    data = (tmp_path / "a.parquet").read_bytes()
    for broken in (b"", b"PAR1", data[:-5], data[: len(data) // 2], b"x" * 500):
        (tmp_path / "a.parquet").write_bytes(broken)
        said("a.parquet cannot be read: ")
    write(tmp_path / "a.parquet", 0, image=None, paths=["a"], y=[1])
    said(r"no column 'path' \(it has: paths, y\). Rename paths\? Nor one of bytes")
    write(tmp_path / "a.parquet", 0, image=None, path=["a.png", "b.png"])
    said("2 of 2 files not found .first: a.png")
    write(tmp_path / "a.parquet", 0, image=None, path=["a.png", None])
    said("row 1 has no path")
    write(tmp_path / "a.parquet", 0, image=pa.array([], pa.binary()))
    said("has no rows")
    write(tmp_path / "a.parquet", 2, split=["train", "early"])
    said("split 'early' should be train or test")
    write(tmp_path / "a.parquet", 3)
    monkeypatch.setattr(columns, "_LARGEST", 10)
    said("row group 0 unpacks to 0.0 GiB, at most 1 is read")
    monkeypatch.setattr(columns, "_ROWS", 2)
    said("says that it has 3 rows")


def test_files_that_differ(tmp_path):
    write(tmp_path / "a.parquet", 4)
    write(tmp_path / "b.parquet", 4, label=[1] * 4)
    with pytest.raises(DataError, match=r"b.parquet has other columns than a.parquet"):
        open_source(str(tmp_path))


def test_bad_cells_are_bad_images(tmp_path):
    cells = [{"bytes": b, "path": None} for b in (png(0), None, b"", b"not an image", png(4))]
    source = open_source(write(tmp_path / "a.parquet", 5, image=[*cells[:4], None]))
    for index, text in ((1, "no bytes in this row"), (2, "empty"), (3, "known"), (4, "no bytes")):
        with pytest.raises(DataError, match=text):
            source[index]
    assert source[0]["image"].shape == (4, 6, 1)


def test_damaged_values_are_bad_images(tmp_path):
    path = write(tmp_path / "a.parquet", 8, label=[0, 1] * 4)
    source = open_source(path)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[10:200] = bytes(190)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError):
        source[0]


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 4)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r'needs pyarrow: pip install "openmae\[tables\]"'):
        open_source(path)
