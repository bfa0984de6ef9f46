"""Segmentation as a user does it: the run folder, exact resume, evaluation, predictions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import load_file

import openmae
from openmae.cli import main
from openmae.data.maskfile import read_mask
from openmae.methods.segment import Segmenter

_WORDS = """
    --batch-size 2 --save-every 100 --log-every 100 --eval-every 100 --warmup-epochs 0
    --recipe tiny --workers 0 --head-dim 16 --image-size 32
"""
LIGHT = _WORDS.split()
FAST = [*LIGHT, "--steps", "6"]


def scenes(root: Path, count: int = 10, chans: int = 3) -> Path:
    """A bright square on dark noise, which the mask shows; the first column has no label."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 60, (40, 44, chans), dtype=np.uint8)
        mask = np.zeros((40, 44), np.uint8)
        top, left = rng.integers(0, 24, 2)
        image[top : top + 16, left : left + 16] += 150
        mask[top : top + 16, left : left + 16] = 1
        mask[:, 0] = 255
        if chans == 3:
            Image.fromarray(image).save(root / f"images/{i:02d}.png")
        else:
            tifffile.imwrite(root / f"images/{i:02d}.tif", image, photometric="minisblack",
                             planarconfig="contig")  # fmt: skip
        Image.fromarray(mask).save(root / f"masks/{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def made(trained, data, run, tmp_path_factory) -> Path:
    """The folder of a run of six steps, with its two twins."""
    out = tmp_path_factory.mktemp("segmented") / "run"
    said = run(
        "segment", trained, data, "--out", out, "--baseline", *FAST, "--classes", "soil,crop"
    )
    assert (
        "10 masks match their images; values 0 1 255; 255 means no label (2.3% of pixels)" in said
    )
    assert "Compare  mIoU" in said
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def tensors(folder: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoints/step_{step:08d}/weights.safetensors")


def test_a_run_folder_with_a_report(made):
    found = results(made)
    assert found["n"] + found["n_train"] == 10
    names = ("mIoU", "mAcc", "aAcc", "random_weights_mIoU", "frozen_mIoU", "frozen_aAcc")
    assert all(0 <= found[name] <= 1 for name in names)
    rows = list(csv.DictReader((made / "per_class.csv").open()))
    assert [row["class"] for row in rows] == ["soil", "crop"]
    ious = [float(row["iou"]) for row in rows]
    assert sum(ious) / 2 == pytest.approx(found["mIoU"], abs=1e-4)
    table = list(csv.reader((made / "confusion.csv").open()))
    counts = np.array([row[1:] for row in table[1:]], dtype=int)
    assert counts.sum() == found["n"] * 40 * 43  # but for the pixels without a label
    assert np.trace(counts) / counts.sum() == pytest.approx(found["aAcc"])
    for name in ("confusion", "predictions", "loss"):
        assert (made / f"pictures/{name}.png").stat().st_size > 1000
    model = openmae.load(made)
    assert isinstance(model, Segmenter)
    assert model.classes == ["soil", "crop"]
    assert model.arguments["labels"] == {"values": [0, 1], "ignore": 255}


def test_its_twins_began_as_they_should(made, trained):
    own, frozen, fresh = (openmae.load(p).encoder.vit.state_dict()
                          for p in (made, made / "frozen", made / "random-weights"))  # fmt: skip
    before = openmae.load(trained).encoder.vit.state_dict()
    name = "blocks.0.mlp.fc1.weight"
    assert torch.equal(frozen[name], before[name])
    assert not torch.equal(own[name], before[name])
    assert float((own[name] - before[name]).abs().max()) < 0.1
    assert float((fresh[name] - before[name]).abs().max()) > 0.1


def test_stopped_and_continued_is_to_the_bit(trained, data, made, tmp_path, monkeypatch):
    from openmae.tasks import running

    out, whole, seen = tmp_path / "run", running.train, []

    def stops(state, batches, plan, folder, stop, evaluate=None, at=frozenset(), track=None):
        if not seen:
            seen.append(1)
            stop.reason = lambda: "a test" if state.step == 3 else None
        return whole(state, batches, plan, folder, stop, evaluate, at, track)

    monkeypatch.setattr(running, "train", stops)
    words = ["segment", str(trained), str(data), "--out", str(out), *FAST, "--classes", "soil,crop"]
    assert main(words) == 75
    assert main(words) == 0
    first, second = tensors(made), tensors(out)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert results(made)["mIoU"] == results(out)["mIoU"]


def test_a_finished_run_says_so_and_other_masks_are_other_data(made, trained, data, run, tmp_path):
    words = ["segment", trained, data, "--out", made, *FAST]
    assert "finished at step 6" in run(*words)
    shutil.copytree(data, tmp_path / "scenes")
    (tmp_path / "scenes/masks/03.png").write_bytes((data / "masks/03.png").read_bytes() + b"\0")
    words[2] = tmp_path / "scenes"
    assert main([str(w) for w in words]) == 3


def test_micro_batches_change_nothing(trained, data, run, made, tmp_path):
    out = tmp_path / "run"
    run("segment", trained, data, "--out", out, *FAST, "--classes", "soil,crop", "--micro-batch", 1)
    for name, tensor in tensors(made).items():
        torch.testing.assert_close(tensors(out)[name], tensor, atol=2e-4, rtol=0)


def test_it_learns(trained, data, run, tmp_path):
    out = tmp_path / "run"
    said = run("segment", trained, data, "--out", out, *LIGHT, "--steps", 60, "--lr", 0.3)
    found = results(out)
    assert found["mIoU"] > 0.7, said
    assert found["mIoU"] > 0.42  # of saying that all is background


def test_evaluate(made, data, run, tmp_path):
    said = run(
        "segment", "evaluate", made, data, "--out", tmp_path / "e", "--flip", "--scales", 1, 0.75
    )
    assert "10 images in" in said
    assert "(all of it)" in said
    found = results(tmp_path / "e")
    assert found["n"] == 10
    assert (found["flip"], found["scales"]) == (True, [1.0, 0.75])
    plain = run("segment", "evaluate", made, data)  # into the run
    assert "segment-evaluate-" in plain
    folder = next(made.glob("segment-evaluate-*"))
    table = np.array([r[1:] for r in csv.reader((folder / "confusion.csv").open())][1:], dtype=int)
    assert table.sum() == 10 * 40 * 43


def test_predictions_are_masks_with_the_datas_values(made, data, run, tmp_path):
    out = tmp_path / "masks"
    images = shutil.copytree(data / "images", tmp_path / "photos")
    (images / "sub").mkdir()
    Image.open(images / "00.png").save(images / "sub/00.jpg")
    Image.open(images / "00.png").save(images / "sub/00.png")
    (images / "broken.png").write_bytes(b"broken")
    said = run("segment", "predict", made, images, "-o", out)
    assert "broken.png" in said
    assert "12 of 13 images" in said
    rows = list(csv.DictReader((out / "areas.csv").open()))
    assert len(rows) == 12
    assert {r["mask"] for r in rows} >= {"masks/sub/00.jpg.png", "masks/sub/00.png.png"}
    for row in rows:
        mask = read_mask(out / row["mask"])
        assert mask.shape == (40, 44)
        assert float(row["crop"]) == pytest.approx(float((mask == 1).mean()), abs=1e-6)
    assert (out / "classes.csv").read_text().splitlines()[1:] == [
        "0,soil,128,0,0",
        "1,crop,0,128,0",
    ]
    assert Image.open(out / "masks/00.png").mode == "P"
    width, height = Image.open(out / "overlays/00.png").size
    assert width >= 11 * 44  # as large as can be seen, with words around it
    assert height > 11 * 40
    # they are masks that can be scored
    scored = tmp_path / "scored"
    shutil.copytree(data / "images", scored / "images")
    shutil.copytree(out / "masks", scored / "masks")
    run("segment", "evaluate", made, scored, "--out", tmp_path / "self")
    assert results(tmp_path / "self")["aAcc"] == 1.0


@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_thirteen_bands(head, make_images, sized, run, tmp_path):
    data = scenes(tmp_path / "bands", 6, 13)
    run(
        "pretrain",
        data / "images",
        "--out",
        tmp_path / "pre",
        *sized("--channels", 13, "--steps", 1),
    )
    out = tmp_path / "run"
    run("segment", tmp_path / "pre", data, "--out", out, *LIGHT, "--steps", 2, "--head", head)
    run("segment", "predict", out, data / "images", "-o", tmp_path / "masks")
    assert len(list((tmp_path / "masks/masks").iterdir())) == 6


def test_python_call(made, data, tmp_path):
    found = openmae.segment_evaluate(made, data, out=tmp_path / "e", dry_run=True)
    assert found == {"dry_run": True}
    assert not (tmp_path / "e").exists()


def test_inspected_converted_and_used_as_an_encoder(made, data, run, tmp_path):
    said = run("inspect", made)
    assert "2 classes by dpt" in said
    assert "openmae segment predict" in said
    said = run("convert", made, "--to", "openmae", "-o", tmp_path / "e.safetensors")
    assert "the encoder alone is written" in said
    run("embed", tmp_path / "e.safetensors", data / "images", "-o", tmp_path / "x.npz")
    run("export", made, "-o", tmp_path / "x.pt2", "--dry-run")
