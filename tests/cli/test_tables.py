"""Tables, patterns, arrays and named sets on the command line: they train, and their mistakes are
told in at most four lines with the right exit code, leaving nothing behind.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def here(tmp_path, make_images, monkeypatch) -> Path:
    """photos/a and photos/b with six images each, in the current folder."""
    make_images(tmp_path / "photos/a")
    make_images(tmp_path / "photos/b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENMAE_DATA_CACHE", str(tmp_path / "sets"))
    return tmp_path


def table(name: str, head: str = "path,label", row: str = "photos/{c}/{i}.png,{c}") -> str:
    rows = [
        row.format(c=c, i=i, split="train" if i < 4 else "test") for c in "ab" for i in range(6)
    ]
    Path(name).write_text("\n".join([head, *rows]) + "\n")
    return name


def results(folder: str) -> dict:
    return json.loads(Path(folder, "results.json").read_text())


@pytest.mark.parametrize("data", ["list.csv", "list.txt", "photos/**/*.png", "a.npy", "l.parquet"])
def test_pretrain_and_again(here, cli, tiny, data):
    table("list.csv")
    table("list.txt", "photos/a/0.png", "photos/{c}/{i}.png")
    np.save("a.npy", np.random.default_rng(0).integers(0, 256, (9, 40, 44, 3), dtype=np.uint8))
    if data == "l.parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        cells = [p.read_bytes() for p in sorted(Path("photos").rglob("*.png"))]
        pq.write_table(pa.table({"bytes": cells}), data)
    said = cli("pretrain", data, *tiny, "--steps", 2)
    assert (said.code, "Traceback" in said.err) == (0, False), said.err
    run = Path("runs") / {"photos/**/*.png": "photos"}.get(data, data)
    assert len((run / "data_files.txt").read_text().splitlines()) == (9 if data == "a.npy" else 12)
    again = cli("pretrain", data, *tiny, "--steps", 2)
    assert (again.code, "finished" in again.out + again.err) == (0, True)


def test_another_label_is_other_data(here, cli, tiny):
    table("list.csv")
    assert cli("pretrain", "list.csv", *tiny, "--steps", 2).code == 0
    Path("list.csv").write_text(Path("list.csv").read_text().replace("b/3.png,b", "b/3.png,a"))
    said = cli("pretrain", "list.csv", *tiny, "--steps", 4, "--allow-change", "steps")
    assert said.code == 3
    assert "--allow-change data" in said.err


def test_a_table_with_its_own_split(here, cli, tiny):
    data = table("list.csv", "path,label,split", "photos/{c}/{i}.png,{c},{split}")
    words = ("pretrain", data, "--val", data, "--out", "run", *tiny, "--steps", 2)
    assert cli(*words).code == 0
    assert len(Path("run/data_files.txt").read_text().splitlines()) == 8
    assert "val_loss" in results("run")
    assert cli("knn", "run", data, "--workers", 0, "--no-baselines").code == 0
    found = results("run/knn-list.csv")
    assert (found["n"], found["n_train"]) == (4, 8)
    assert cli("embed", "run", data, "-o", "all.npz", "--workers", 0).code == 0
    assert len(np.load("all.npz")["path"]) == 12
    words = ("--out", "tuned", "--steps", 2, "--batch-size", 4, "--workers", 0, "--device", "cpu")
    assert cli("finetune", "run", data, *words).code == 0
    assert cli("evaluate", "tuned", data, "--out", "score", "--workers", 0).code == 0
    assert results("score")["n"] == 4


def test_a_held_out_folder_is_taken_out_of_a_table(here, cli, tiny):
    words = ("pretrain", table("list.csv"), "--val", "photos/b", "--out", "run")
    assert cli(*words, *tiny, "--steps", 2).code == 0
    assert len(Path("run/data_files.txt").read_text().splitlines()) == 6


def _mistakes() -> dict[str, tuple[str, str, int]]:
    table("name.csv", "name,label")
    table("nearly.csv", "paths,label")
    table("gone.csv", row="photos/{c}/x{i}.png,{c}")
    Path("empty.csv").write_text("path,label\n")
    table("split.csv", "path,split", "photos/{c}/{i}.png,early")
    objects = np.empty(2, dtype=object)
    objects[:] = [np.zeros((4, 4)), np.zeros((5, 4))]
    np.save("ragged.npy", objects, allow_pickle=True)
    Path("huge.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f")
    np.save("cube.npy", np.zeros((5, 8, 8, 8)))
    np.savez("other.npz", pictures=np.zeros((5, 20, 20)))
    Path("broken.parquet").write_bytes(b"PAR1 broken PAR1")
    return {
        "name.csv": ("no column 'path'", "it has: name, label", 3),
        "nearly.csv": ("no column 'path'", "Rename paths?", 3),
        "gone.csv": ("12 of 12 files not found", "first: photos/a/x0.png", 3),
        "empty.csv": ("empty.csv has no lines", "below its first", 3),
        "split.csv": ("split 'early'", "should be train or test", 3),
        "photos/*.tif": ("matches no image", "photos has: a/ b/", 3),
        "ragged.npy": ("Python objects", "Save them as image files", 3),
        "huge.npy": ("header of 2,147,483,647 bytes", "huge.npy", 3),
        "cube.npy": ("channels first or last", "5 x 8 x 8 x 8", 3),
        "other.npz": ("no images under a known name", "it has: pictures", 3),
        "broken.parquet": ("broken.parquet", "cannot be read", 3),
        "hf://name": ("should be hf://OWNER/NAME", ":SPLIT", 2),
        "cifar10": ("is not in", "openmae pretrain cifar10:download --dry-run", 3),
    }


NAMES = [
    "name.csv",
    "nearly.csv",
    "gone.csv",
    "empty.csv",
    "split.csv",
    "photos/*.tif",
    "ragged.npy",
]
NAMES += ["huge.npy", "cube.npy", "other.npz", "broken.parquet", "hf://name", "cifar10"]


@pytest.mark.parametrize("data", NAMES)
def test_mistakes(here, cli, tiny, data):
    first, second, code = _mistakes()[data]
    before = sorted(here.rglob("*"))
    said = cli("pretrain", data, *tiny, "--steps", 2)
    assert said.code == code, said.err
    assert first in said.err
    assert second in said.err
    assert len(said.err.strip().splitlines()) <= 4
    assert "Traceback" not in said.err + said.out
    assert sorted(here.rglob("*")) == before


def test_mistakes_with_labels(here, cli, tiny, quiet):
    assert quiet("pretrain", "photos", "--out", "run", *tiny, "--steps", 2) == 0
    said = cli("probe", "run", table("one.csv", row="photos/{c}/{i}.png,x"), "--workers", 0)
    assert (said.code, "Only one class (x) in one.csv" in said.err) == (3, True)
    said = cli("probe", "run", table("no.txt", "photos/a/0.png", "photos/{c}/{i}.png"))
    assert (said.code, "No labels in no.txt" in said.err) == (3, True)
    said = cli("probe", "run", "photos", "--labels", table("bad.csv", "path,words"))
    assert (said.code, "no column 'label'" in said.err) == (3, True)
