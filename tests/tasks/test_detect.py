"""Detection as a user does it: the run folder, exact resume, evaluation, prediction, other data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import object_files as files
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import openmae
from openmae.cli import main
from openmae.methods.detect import Detector

pytest.importorskip("faster_coco_eval")

_WORDS = """
    --recipe tiny --steps 6 --batch-size 4 --warmup-epochs 0 --workers 0 --eval-every 1
    --pyramid-dim 8 --regions 16 --window 3 --image-size 32 48 --jitter 0.8 1.2
"""
FAST = _WORDS.split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A COCO folder of eight images to train on and three to validate on."""
    root = tmp_path_factory.mktemp("objects")
    files.coco(root)
    files.coco(root, 3, "val")
    return root


@pytest.fixture(scope="module")
def detector(trained: Path, data: Path, run, tmp_path_factory) -> Path:
    """The folder of six steps."""
    out = tmp_path_factory.mktemp("detector") / "run"
    said = run("detect", trained, data, "--out", out, *FAST)
    for words in ("16 objects of 2 classes (ids 3 .. 7, with gaps), boxes and masks", "3 held out"):
        assert words in said
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints/step_00000006/weights.safetensors")


def test_a_run_folder_with_scores(detector):
    found = results(detector)
    assert (found["n"], found["n_train"], found["objects"], found["seed"]) == (3, 8, 6, 0)
    for kind in ("box", "mask"):
        assert 0 <= found[f"{kind}_AP"] <= found[f"{kind}_AP50"] <= 1
    rows = list(csv.DictReader((detector / "per_class.csv").open()))
    assert [r["class"] for r in rows] == ["cat", "dog"]
    lines = (detector / "metrics.jsonl").read_text().splitlines()
    assert sum("box_AP" in json.loads(line) for line in lines) == 3
    guessed = json.loads((detector / "detections.json").read_text())
    assert all(g["image_id"] in (0, 10, 20) and g["category_id"] in (3, 7) for g in guessed)
    assert len(list((detector / "pictures").glob("0*.png"))) == 3
    model = openmae.load(detector)
    assert isinstance(model, Detector)
    assert model.classes == ["cat", "dog"]
    assert not isinstance(openmae.load(detector / "encoder.safetensors"), Detector)


def test_stopped_and_continued_is_to_the_bit(trained, data, detector, tmp_path, monkeypatch):
    from openmae.tasks import running

    whole, seen = running.train, []

    def stops(state, batches, plan, folder, stop, evaluate=None, at=frozenset(), track=None):
        if not seen:
            seen.append(1)
            stop.reason = lambda: "a test" if state.step == 3 else None
        return whole(state, batches, plan, folder, stop, evaluate, at, track)

    monkeypatch.setattr(running, "train", stops)
    words = ["detect", str(trained), str(data), "--out", str(tmp_path / "run"), *FAST]
    assert main(words) == 75
    assert main(words) == 0
    first, second = tensors(detector), tensors(tmp_path / "run")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert results(detector) == results(tmp_path / "run")


def test_micro_batches_change_nothing(trained, data, detector, run, tmp_path):
    run("detect", trained, data, "--out", tmp_path / "run", *FAST, "--micro-batch", 1)
    first, second = tensors(detector), tensors(tmp_path / "run")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


def test_evaluation_is_that_of_the_run(detector, data, run, tmp_path):
    said = run("detect", "evaluate", detector, data, "--out", tmp_path / "out", "--workers", 0)
    assert "3 images, 6 objects" in said
    found = results(tmp_path / "out")
    for name in ("box_AP", "mask_AP", "box_AP50", "n"):
        assert found[name] == pytest.approx(results(detector)[name], abs=1e-6)
    assert (tmp_path / "out/detections.json").exists()


def test_evaluation_on_another_format_without_masks(detector, run, tmp_path):
    root = files.voc(tmp_path / "voc")
    said = run("detect", "evaluate", detector, root, "--workers", 0)
    assert "masks are not scored" in said
    assert "mask_AP" not in results(detector / "evaluate-voc")


def test_prediction_of_a_folder(detector, data, run, tmp_path):
    (tmp_path / "new").mkdir()
    for i in range(3):
        Image.open(data / f"val/00{i}.png").resize((60 + i, 30)).save(tmp_path / f"new/{i}.png")
    (tmp_path / "new/bad.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    words = ["detect", "predict", detector, tmp_path / "new", "-o", out, "--workers", 0]
    said = run(*words, "--threshold", 0.0)
    assert "bad.png" in said
    index = json.loads((out / "images.json").read_text())
    assert [i["width"] for i in index["images"]] == [60, 61, 62]
    assert index["unreadable"][0][0] == "bad.png"
    guessed = json.loads((out / "detections.json").read_text())
    assert {g["image_id"] for g in guessed} <= {i["id"] for i in index["images"]}
    from openmae.data.rle import counts_of

    for g in guessed:
        (height, width), (x, y, w, h) = g["segmentation"]["size"], g["bbox"]
        assert x >= -1e-3
        assert y >= -1e-3
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        counts_of(g["segmentation"]["counts"], height, width)
    assert len(list((out / "pictures").iterdir())) == 3
    run(*words)  # writes its own files again


def test_baselines_beside(trained, data, run, tmp_path):
    short = [w if w != "6" else "1" for w in FAST]
    said = run("detect", trained, data, "--out", tmp_path / "run", *short, "--baseline")
    found = results(tmp_path / "run")
    assert {"box_AP", "random_weights_box_AP", "frozen_mask_AP50"} <= found.keys()
    assert "Compare" in said
    before = load_file(trained / "encoder.safetensors")
    after = load_file(tmp_path / "run/frozen/encoder.safetensors")
    for name in before:
        if name != "pos_embed":  # resized
            assert torch.equal(before[name], after[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("make", ["yolo", "instances"])
def test_other_formats_train(trained, run, tmp_path, make):
    root = getattr(files, make)(tmp_path / "data", 20)
    short = [w if w != "6" else "1" for w in FAST]
    more = ["--no-masks"] if make == "yolo" else []
    said = run("detect", trained, root, "--out", tmp_path / "run", *short, *more)
    assert ("boxes and masks" in said) is (make == "instances")


def test_a_dry_run_writes_nothing(trained, data, run, tmp_path):
    said = run("detect", trained, data, "--out", tmp_path / "run", *FAST, "--dry-run")
    assert "nothing was written" in said
    assert not (tmp_path / "run").exists()


def test_deep_images_of_many_bands(run, make_images, sized, tmp_path):
    """Five bands of 8 bits, from pretraining to pictures."""
    import tifffile

    folder = make_images(tmp_path / "five", 6, 5)
    pre = tmp_path / "pre"
    words = sized("--channels", 5, "--steps", 1, "--recipe", "laptop")
    run("pretrain", folder, "--out", pre, *words)
    images = [{"id": i, "file_name": f"{i:02d}.tif"} for i in range(6)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0}
        for i in range(6)
    ]
    file = tmp_path / "boxes.json"
    named = [{"id": 1, "name": "x"}]
    files.write(file, {"images": images, "annotations": boxes, "categories": named})
    short = [w if w != "6" else "1" for w in FAST]
    run("detect", pre, file, "--images", folder, "--out", tmp_path / "run", *short)
    assert results(tmp_path / "run")["n_train"] + results(tmp_path / "run")["n"] == 6
    assert tifffile.imread(folder / "00.tif").shape[2] == 5
    assert np.asarray(Image.open(next((tmp_path / "run/pictures").glob("0*.png")))).shape[2] == 3


@pytest.mark.slow
def test_two_ranks_are_one(trained, data, detector, tmp_path):
    """The same boxes sampled, the same weights up to the order of sums."""
    words = ["detect", str(trained), str(data), "--out", str(tmp_path / "run"), *FAST]
    assert main([*words, "--gpus", "2", "--device", "cpu"]) == 0
    first, second = tensors(detector), tensors(tmp_path / "run")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-3, msg=name)
    found = results(tmp_path / "run")
    assert found["box_AP"] == pytest.approx(results(detector)["box_AP"], abs=0.02)
