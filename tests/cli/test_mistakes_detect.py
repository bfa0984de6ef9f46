"""Mistakes with detection: each has its exit code, at most four lines, the fix, no traceback."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import object_files as files
import pytest

pytest.importorskip("faster_coco_eval")

_WORDS = """
    --recipe tiny --batch-size 2 --warmup-epochs 0 --workers 0
    --pyramid-dim 8 --regions 8 --image-size 32 --steps 1
"""
FAST = _WORDS.split()


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_run: Path) -> Path:
    """run/ (of pretraining), coco/, photos/."""
    root = tmp_path_factory.mktemp("detect")
    files.coco(root / "coco")
    (root / "run").symlink_to(tiny_run)
    (root / "photos").symlink_to(tiny_run.parent / "photos")
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def short(said) -> bool:
    return len(said.err.splitlines()) <= 4 and "Traceback" not in said.err + said.out


def change(**more) -> None:
    file = Path("coco/annotations/instances_train.json")
    values = json.loads(file.read_text())
    for index, own in more.pop("rows", {}).items():
        values["annotations"][index].update(own)
    files.write(file, values | more)


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("detect run nowhere", 3, ("nowhere does not exist",)),
        ("detect run coc", 3, ("Did you mean coco?",)),
        ("detect run photos", 3, ("no objects that can be read", "COCO", "YOLO")),
        ("detect run coco/train/000.png", 3, ("COCO .json",)),
        ("detect run coco/train", 3, ("coco, which has annotations/instances_train.json?",)),
        (
            "detect run coco/annotations/instances_trainn.json",
            3,
            ("annotations has: instances_train.json", "Did you mean coco/annotations/instances_t"),
        ),
        ("detect run coco --val photos", 3, ("photos holds no objects",)),
        ("detect run coco --images coco/trai", 3, ("Did you mean train?",)),
        ("detect run coco --image-size 33", 2, ("not a multiple of patch 8", "32 or 40")),
        ("detect run coco --jitter 2 0.1", 2, ("--jitter", "smaller one first")),
        ("detect run coco --global-blocks 5", 2, ("0 to 0",)),
        ("detect run coco --sampling balanced", 2, ("--sampling", "uniform")),
        ("detect run coco --baseline --frozen", 2, ("--baseline", "drop them")),
        ("detect run coco --windows 3", 2, ("Did you mean --window?",)),
        ("detect run coco --recipe smal", 2, ("Did you mean small?",)),
        ("detect evaluate run coco", 4, ("finds no objects yet", "openmae detect run DATA")),
        ("detect predict run photos -o out", 4, ("finds no objects yet",)),
        ("detect predict run photos -o nowhere/out", 4, ("nowhere does not exist",)),
        ("detect coco run", 3, ("is a run folder", "Turn them round: run coco")),
    ],
)  # fmt: skip
def test_words_that_are_wrong(here, cli, words, code, parts):
    before = sorted(p for p in here.rglob("*"))
    said = cli(*words.split())
    assert said.code == code, said.err
    assert short(said)
    for part in parts:
        assert part in said.err
    assert sorted(p for p in here.rglob("*")) == before


def test_row_25_boxes_and_categories(here, cli):
    rows = {i: {"bbox": [1, 1, 0, 4]} for i in (0, 4, 6)} | {9: {"category_id": 91}}
    change(rows=rows)
    said = cli("detect", "run", "coco", "--out", "out", *FAST)
    assert said.code == 0, said.err
    assert "3 boxes have zero width or height: dropped (first: annotation 100 of 000" in said.err
    assert "1 annotations are of category 91, which has no name: dropped" in said.err
    held_out = int(re.search(r"(\d+) held out", said.out)[1])
    assert f"{8 - held_out} images in coco" in said.out


def test_row_30_what_is_not_installed(here, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    said = cli("detect", "run", "coco", "--out", "out")
    assert said.code == 2
    assert short(said)
    assert 'detect needs faster-coco-eval: pip install "openmae[dense]"' in said.err


def test_images_that_are_elsewhere(here, cli):
    Path("coco/train").rename("pictures")
    said = cli("detect", "run", "coco", "--out", "out", *FAST)
    assert said.code == 3
    assert "none of its 8 images is in coco/train. Give --images FOLDER" in said.err
    assert cli("detect", "run", "coco", "--images", "pictures", "--out", "out", *FAST).code == 0


def test_no_objects_at_all(here, cli):
    change(annotations=[])
    said = cli("detect", "run", "coco")
    assert (said.code, short(said)) == (3, True)
    assert "coco has no objects" in said.err


def test_masks_that_are_not_there(here, cli):
    files.voc(here / "voc")
    said = cli("detect", "run", "voc", "--masks", "--out", "out")
    assert (said.code, short(said)) == (3, True)
    assert "boxes and no masks. Drop --masks" in said.err
    assert cli("detect", "run", "voc", "--out", "out", *FAST).code == 0


def test_a_detector_and_other_data(here, cli):
    assert cli("detect", "run", "coco", "--out", "out", *FAST).code == 0
    before = json.loads(Path("coco/annotations/instances_train.json").read_text())
    change(rows={i: {"bbox": [2, 2, 9, 9]} for i in range(16)})
    said = cli("detect", "run", "coco", "--out", "out", "--steps", 2, "--allow-change", "steps")
    assert (said.code, short(said)) == (3, True)
    assert "images, the run began with" in said.err
    change(categories=[{"id": 3, "name": "cow"}, {"id": 7, "name": "dog"}])
    said = cli("detect", "evaluate", "out", "coco")
    assert (said.code, short(said)) == (3, True)
    assert (
        "objects of a class that the model does not know (first: cow). It knows: cat, dog"
        in said.err
    )
    files.write(Path("coco/annotations/instances_train.json"), before)
    said = cli("detect", "predict", "out", "photos", "-o", "photos")
    assert said.code == 4
    assert "holds other files" in said.err
    said = cli("detect", "predict", "out", "photos", "-o", "out")
    assert said.code == 4
    assert "is a run folder" in said.err
    said = cli("finetune", "run", "photos", "--out", "out", "--recipe", "small")
    assert said.code == 4
    assert "is a run of `openmae detect`" in said.err
