"""`openmae reconstruct`: honest pictures and numbers that can be computed again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import openmae
from openmae.cli import main
from openmae.data.decode import decode
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding
from openmae.randomness import Rand
from openmae.report.pictures import LEAK, reconstruct


@pytest.fixture(scope="module")
def models(run, sized, classes, tmp_path_factory):
    """A run for each target."""
    root = tmp_path_factory.mktemp("targets")
    for target in ("norm_pixels", "pixels"):
        options = sized("--target", target, "--recipe", "laptop")
        run("pretrain", classes, "--out", root / target, *options, "--steps", 2)
    return root


@pytest.fixture
def image(classes) -> torch.Tensor:
    return EvalTransform((32, 32))(decode(classes / "ant/03.png", Decoding(3)))


def blocks(values: np.ndarray) -> np.ndarray:
    """(C, 32, 32) -> (16, 8, 8, C): the patches, by plain numpy."""
    rows = values.transpose(1, 2, 0).reshape(4, 8, 4, 8, -1)
    return rows.transpose(0, 2, 1, 3, 4).reshape(16, 8, 8, -1)


@pytest.mark.parametrize("target", ["norm_pixels", "pixels"])
def test_the_numbers_are_those_of_the_pictures(target, models, image):
    method, rand = openmae.load(models / target), Rand(5, 0, 0.0, 0, 1)
    (row,) = reconstruct(method, image[None], rand, ["x.png"])
    with torch.inference_mode():
        out = method(image[None], rand, full=True)
    hidden = out["mask"][0].numpy().astype(bool)
    assert hidden.sum() == 12
    true, output = blocks(image.numpy() / 255.0), blocks(row.pictures[2].astype(np.float64))
    np.testing.assert_allclose(blocks(row.pictures[0]), true, atol=1e-6)
    assert row.mse == pytest.approx(((output - true)[hidden] ** 2).mean(), rel=1e-4)
    fill = true[~hidden].mean(axis=(0, 1, 2))
    assert row.mean_fill_mse == pytest.approx(((true[hidden] - fill) ** 2).mean(), rel=1e-4)
    assert row.model_loss == pytest.approx(float(out["loss"]), rel=1e-5)
    pasted = blocks(row.pictures[3])
    np.testing.assert_allclose(pasted[~hidden], true[~hidden], atol=1e-6)
    np.testing.assert_allclose(pasted[hidden], output[hidden], atol=1e-6)
    if target == "pixels":
        pred = blocks_of(out["pred"][0].numpy())
        mean, std = (t.flatten().numpy() for t in (method.encoder.mean, method.encoder.std))
        np.testing.assert_allclose(output, np.clip(pred * std + mean, 0, 1), atol=1e-5)


def blocks_of(pred: np.ndarray) -> np.ndarray:
    return pred.reshape(16, 8, 8, 3).astype(np.float64)


@pytest.mark.parametrize("cheat", [False, True])
def test_only_a_cheating_scale_depends_on_what_is_hidden(cheat, models, image):
    method, rand = openmae.load(models / "norm_pixels"), Rand(5, 0, 0.0, 0, 1)
    with torch.inference_mode():
        hidden = method(image[None], rand, full=True)["mask"][0].numpy().astype(bool)
    area = np.kron(hidden.reshape(4, 4), np.ones((8, 8))).astype(bool)
    other = image.clone()
    other[:, torch.from_numpy(area)] = 255 - other[:, torch.from_numpy(area)] // 3
    (first,), (second,) = (
        reconstruct(method, x[None], rand, ["x.png"], cheat_scale=cheat) for x in (image, other)
    )
    same = np.array_equal(first.pictures[2], second.pictures[2])
    assert same is not cheat
    assert (LEAK in first.sentence()) is cheat
    assert ("visible patches only" in first.sentence()) is not cheat
    assert first.mse != second.mse  # the errors do know the truth


def test_a_model_of_pixels_has_no_scale_to_leak(models, image):
    method = openmae.load(models / "pixels")
    (row,) = reconstruct(method, image[None], Rand(0, 0, 0.0, 0, 1), ["x.png"])
    assert row.note == ""


def test_the_picture_and_the_numbers_of_the_command(run, models, classes, tmp_path, capsys):
    words = ["reconstruct", models / "norm_pixels", classes, "--max-images", 3, "--seed", 4]
    said = run(*words, "-o", tmp_path / "x.png")
    assert len(re.findall(r"masked-patch MSE [\d.]+, mean fill [\d.]+", said)) == 3
    with Image.open(tmp_path / "x.png") as picture:
        picture.load()
        assert picture.width >= 4 * 32
        assert picture.height >= 3 * 32
    first = (tmp_path / "x.png").read_bytes()
    run(*words, "-o", tmp_path / "y.png")
    assert (tmp_path / "y.png").read_bytes() == first
    said = run(*words, "-o", tmp_path / "z.png", "--cheat-scale")
    assert said.count(LEAK) == 3
    assert (tmp_path / "z.png").read_bytes() != first
    capsys.readouterr()
    assert main([str(w) for w in [*words, "-o", tmp_path / "x.png", "--json"]]) == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["n"], results["seed"]) == (3, 4)
    assert results["mean_fill_mse"] > 0


def test_single_files_and_another_ratio(run, models, classes, tmp_path):
    files = [classes / "ant/00.png", classes / "bee/01.png"]
    said = run("reconstruct", models / "pixels", *files, "-o", tmp_path / "x.png")
    assert "00.png" in said
    assert "01.png" in said
    more = ["-o", tmp_path / "y.png", "--mask-ratio", 0.5]
    assert run("reconstruct", models / "pixels", *files, *more) != said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("{run}/encoder.safetensors {data}", 4, "has no decoder"),
        ("{run} {data} --mask-ratio 0.95", 2, "keeps 0 of 16 patches"),
        ("{run} {data}/nothing.png", 3, "does not exist"),
    ],
)
def test_what_cannot_be_shown_is_said(words, code, says, models, classes, tmp_path, capsys):
    words = words.format(run=models / "pixels", data=classes).split()
    assert main(["reconstruct", *words, "-o", str(tmp_path / "x.png")]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_sets_of_images_are_opened(run, trained, classes, tmp_path):
    names = sorted(p.relative_to(classes).as_posix() for p in classes.rglob("*.png"))[:3]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path", *(str(classes / name) for name in names)]))
    run("reconstruct", trained, table, "-o", tmp_path / "x.png")
    images = np.stack([np.array(Image.open(classes / name)) for name in names])
    np.save(tmp_path / "a.npy", images)
    said = run("reconstruct", trained, tmp_path / "a.npy", "-o", tmp_path / "y.png", "--json")
    assert (tmp_path / "y.png").exists()
    assert said.count("masked-patch MSE") == 3


def test_gray_images_are_shown_by_a_colour_model(run, trained, tmp_path):
    run("reconstruct", trained, "digits", "-o", tmp_path / "x.png", "--max-images", 1)
    assert (tmp_path / "x.png").exists()
