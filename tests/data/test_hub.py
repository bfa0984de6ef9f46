"""Hugging Face data sets as sources: saved folders, and the hub's words without a network."""

from __future__ import annotations

import io
import json
import pickle

import pytest
from PIL import Image

from openmae.data.sources import open_source, open_split
from openmae.errors import DataError, UsageError

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (6, 4), value).save(out, "PNG")
    return out.getvalue()


def made(count: int = 6, first: int = 0, names=("ant", "bee"), column: str = "image", labels=None):
    """Images whose value is their number, with classes by turns."""
    cells = {column: [{"bytes": png(first + i), "path": None} for i in range(count)]}
    features = {column: datasets.Image()}
    if names is not None:
        cells["label"] = [i % len(names) for i in range(count)] if labels is None else labels
        features["label"] = datasets.ClassLabel(names=list(names))
    return datasets.Dataset.from_dict(cells, features=datasets.Features(features))


def values(source) -> list[int]:
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


@pytest.fixture
def saved(tmp_path):
    """The folder of a saved data set."""

    def save(data, name: str = "set") -> str:
        data.save_to_disk(str(tmp_path / name))
        return str(tmp_path / name)

    return save


def test_a_saved_set(saved):
    source = open_source(saved(made()))
    assert (values(source), source.classes) == (list(range(6)), ["ant", "bee"])
    assert source.labels.tolist() == [0, 1] * 3
    assert paths(source)[5] == "all/00000005"
    assert source.header(2)[:3] == (4, 6, 1)
    assert values(pickle.loads(pickle.dumps(source.subset([4, 1])))) == [4, 1]


def test_rows_that_were_chosen_stay_chosen(saved):
    source = open_source(saved(made().select([5, 0, 3])))
    assert (values(source), source.labels.tolist()) == ([5, 0, 3], [1, 0, 1])


def test_listing_stays_when_the_folder_moves_and_changes_with_the_data(saved, tmp_path):
    first = list(open_source(saved(made())).listing())
    assert first[1].startswith("all/00000001\t")
    (tmp_path / "set").rename(tmp_path / "moved")
    assert list(open_source(str(tmp_path / "moved")).listing()) == first
    assert list(open_source(saved(made(first=1))).listing()) != first


def test_splits(saved):
    parts = {"train": made(4), "validation": made(2, 20), "test": made(3, 10)}
    path = saved(datasets.DatasetDict(parts))
    train, test = open_split(path)
    assert (values(train), values(test)) == ([0, 1, 2, 3], [10, 11, 12])
    assert paths(open_source(path, split="test"))[0] == "test/00000000"
    assert values(open_source(path)) == [0, 1, 2, 3]
    assert values(open_source(path, split="all")) == [0, 1, 2, 3, 20, 21, 10, 11, 12]


def test_a_test_part_whose_labels_are_secret_gives_way(saved, monkeypatch):
    parts = {"train": made(4), "validation": made(2, 20), "test": made(3, 10, labels=[-1] * 3)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict(parts))
    train, test = open_split("hf://owner/name")
    assert (values(train), values(test)) == ([0, 1, 2, 3], [20, 21])


def test_other_labels(saved):
    data = made(4, names=None).add_column("category", ["b", "a", None, "b"])
    source = open_source(saved(data))
    assert (source.classes, source.labels.tolist()) == (["a", "b"], [1, 0, -1, 1])
    data = made(4, names=None).add_column("label", [10, 9, 9, 10])
    assert open_source(saved(data, "b")).classes == ["9", "10"]
    data = made(4, names=None, column="picture")
    assert open_source(saved(data, "c")).labels.tolist() == [-1] * 4
    features = datasets.Features(
        {"image": datasets.Image(), "fine": datasets.ClassLabel(names=["x", "y"])}
    )
    cells = {"image": [{"bytes": png(0), "path": None}], "fine": [1]}
    source = open_source(saved(datasets.Dataset.from_dict(cells, features=features), "d"))
    assert (source.classes, source.labels.tolist()) == (["x", "y"], [1])


def test_files_beside_a_set_and_bad_cells(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(7))
    cells = [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
        {"bytes": b"no image", "path": None},
        None,
    ]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    data = datasets.Dataset.from_dict({"image": cells}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: data)
    source = open_source("hf://owner/name")
    assert values(source.subset([0])) == [7]
    for index, text in ((1, "no bytes in this row, and no file"), (2, "known"), (3, "no bytes")):
        with pytest.raises(DataError, match=text):
            source[index]


def test_mistakes_of_saved_sets(saved, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no column of type Image; it has: a \(int64\)"):
        open_source(saved(datasets.Dataset.from_dict({"a": [1]}), "a"))
    with pytest.raises(DataError, match="cannot be read"):
        open_source(saved(made(0), "b"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: made(0))
    with pytest.raises(DataError, match="has no rows"):
        open_source("hf://owner/name")
    parts = datasets.DatasetDict({"first": made(2), "second": made(2)})
    with pytest.raises(DataError, match=r"has the splits first, second. Name one: .*/c/first$"):
        open_source(saved(parts, "c"))
    assert len(open_source(str(tmp_path / "c" / "second"))) == 2
    parts = datasets.DatasetDict({"train": made(2), "test": made(2, names=None)})
    with pytest.raises(DataError, match=r"splits have different columns. Name one: .*/d/train$"):
        open_source(saved(parts, "d"))
    path = saved(made(), "e")
    (tmp_path / "e/state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(path)
    path = saved(made(), "f")
    arrow = next((tmp_path / "f").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(path)


def test_a_formatter_that_the_set_names_is_not_used(saved, tmp_path):
    path = saved(made())
    state = json.loads((tmp_path / "set/state.json").read_text())
    state |= {"_format_type": "numpy", "_format_columns": ["label"]}
    (tmp_path / "set/state.json").write_text(json.dumps(state))
    assert values(open_source(path)) == list(range(6))


# The hub, of which only the words are tested here.


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hf://owner/name", ("owner/name", None, None, None)),
        ("hf://owner/na.me-1:train", ("owner/na.me-1", None, None, "train")),
        ("hf://owner/name/small:test", ("owner/name", "small", None, "test")),
        (
            "hf://owner/name@refs/convert/parquet:x",
            ("owner/name", None, "refs/convert/parquet", "x"),
        ),
    ],
)
def test_words(word, expected, monkeypatch):
    asked = []

    def load(name, config=None, *, split, revision):
        asked.append((name, config, revision, split))
        return made()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert values(open_source(word)) == list(range(6))
    assert asked == [expected]


@pytest.mark.parametrize(
    "word", ["hf://name", "hf://a/b/c/d", "hf://a/b:", "hf:///b", "hf://a/b c"]
)
def test_other_words(word):
    with pytest.raises(UsageError, match="should be hf://OWNER/NAME, perhaps with :SPLIT"):
        open_source(word)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionError("no route"), "the hub cannot be reached. Elsewhere: load_dataset"),
        (datasets.exceptions.DatasetNotFoundError("x"), "no such data set, or it needs a login"),
        (
            ValueError('Unknown split "x".\nShould be one of [a]'),
            r'Unknown split "x". Should be one',
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "never run"),
    ],
)
def test_errors_of_the_hub(error, text, monkeypatch):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=text) as found:
        open_source("hf://owner/name:x")
    assert "\n" not in str(found.value)


def test_offline_is_said(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="hf://owner/name: the hub cannot be reached"):
        open_source("hf://owner/name")


def test_without_the_package_or_with_an_old_one(saved, monkeypatch):
    path = saved(made())
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(UsageError, match="needs datasets >= 4"):
        open_source(path)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match=r'needs datasets: pip install "openmae\[tables\]"'):
        open_source("hf://owner/name")
