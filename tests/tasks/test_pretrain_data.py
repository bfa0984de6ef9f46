"""Pretraining end to end on every kind of folder, each followed by reconstruct and embed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.cli import main
from openmae.engine.runfolder import RunFolder

KINDS = {
    "class folders": ([], 3),
    "flat": ([], 3),
    "non-square": (["--image-size", "32", "48"], 3),
    "one channel": (["--channels", "1"], 1),
    "five bands": (["--channels", "5"], 5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pretrain_reconstruct_embed(kind, run, make_images, sized, tmp_path):
    options, channels = KINDS[kind]
    photos = tmp_path / "photos"
    for first, name in enumerate(("a", "b") if kind == "class folders" else ("",)):
        make_images(photos / name, 5, channels, first=10 * first)
    folder, picture, table = tmp_path / "run", tmp_path / "x.png", tmp_path / "x.npz"
    run("pretrain", photos, "--out", folder, *sized(*options), "--steps", 2)
    results = json.loads((folder / "results.json").read_text())
    assert np.isfinite(results["loss"])
    assert results["n"] == len([p for p in photos.rglob("*") if p.is_file()])
    run("reconstruct", folder, photos, "-o", picture)
    with Image.open(picture) as image:
        image.load()
        width = 48 if kind == "non-square" else 32
        assert image.width >= 4 * width
    run("embed", folder, photos, "-o", table)
    with np.load(table) as found:
        assert found["vector"].shape == (results["n"], 16)
        assert np.isfinite(found["vector"]).all()
        assert len(set(map(bytes, found["vector"]))) == results["n"]


def test_the_recorded_mean_is_that_of_the_pixels(run, make_images, tiny, tmp_path):
    photos = make_images(tmp_path / "photos", 5, 5)
    run("pretrain", photos, "--out", tmp_path / "run", *tiny, "--channels", 5, "--steps", 1)
    pixels = np.stack([tifffile.imread(p) for p in sorted(photos.iterdir())]) / 255
    resolved = RunFolder(tmp_path / "run").read_config()["resolved"]
    np.testing.assert_allclose(resolved["mean"], pixels.mean((0, 1, 2)), atol=2e-6)
    np.testing.assert_allclose(resolved["std"], pixels.std((0, 1, 2)), atol=2e-6)


def test_fewer_images_than_a_batch(run, make_images, sized, tmp_path):
    photos = make_images(tmp_path / "photos", 1)
    run("pretrain", photos, "--out", tmp_path / "run", *sized("--batch-size", 8), "--epochs", 3)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (results["steps"], results["n"]) == (1, 1)  # ceil(3 * 1 / 8)


def test_bad_files_are_named_and_passed_over(run, make_images, tiny, tmp_path):
    photos = make_images(tmp_path / "photos", 5)
    (photos / "broken.png").write_bytes((photos / "00.png").read_bytes()[:200])
    (photos / "empty.png").touch()
    folder = tmp_path / "run"
    said = run("pretrain", photos, "--out", folder, *tiny, "--steps", 4)
    assert "2 of 7" in said
    rows = [json.loads(r) for r in (folder / "bad_files.jsonl").read_text().splitlines()]
    assert {r["path"] for r in rows} == {"broken.png", "empty.png"}
    assert all(r["reason"] for r in rows)
    said = run("embed", folder, photos, "-o", tmp_path / "x.npz")
    assert "5 of 7 images" in said
    assert "broken.png" in said
    said = run("reconstruct", folder, photos, "-o", tmp_path / "x.png")
    assert "broken.png" in said


def test_names_that_are_not_utf8(run, make_images, tiny, tmp_path):
    photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos-\xff"))
    make_images(photos, 4)
    os.rename(photos / "00.png", os.fsencode(photos) + b"/\xfe\n0.png")
    folder = tmp_path / "run"
    run("pretrain", photos, "--out", folder, *tiny, "--steps", 2)
    again = run("pretrain", photos, "--out", folder)
    assert "finished" in again
    run("reconstruct", folder, photos, "-o", tmp_path / "x.png")
    run("embed", folder, photos, "-o", tmp_path / "x.csv")
    assert b"\xfe" in (tmp_path / "x.csv").read_bytes()
    for suffix in ("npz", "parquet"):
        run("embed", folder, photos, "-o", tmp_path / f"x.{suffix}")
    with np.load(tmp_path / "x.npz") as found:
        assert "\udcfe\n0.png" in found["path"].tolist()
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "x.parquet")
    assert "\\udcfe\n0.png" in table["path"].to_pylist()


@pytest.mark.parametrize("how", ["folder", "pattern", "list"])
def test_held_out_images_are_not_trained_on(how, run, make_images, sized, tmp_path, capsys):
    photos = make_images(tmp_path / "photos", 6)
    make_images(photos / "aside", 2, first=20)
    names = sorted((photos / "aside").iterdir())
    (tmp_path / "val.txt").write_text("".join(f"photos/aside/{p.name}\n" for p in names))
    words = {"folder": "photos/aside", "pattern": "photos/aside/*", "list": "val.txt"}
    val = tmp_path / words[how]
    run("pretrain", photos, "--val", val, "--out", tmp_path / "run", *sized("--steps", 1))
    listed = (tmp_path / "run/data_files.txt").read_text().splitlines()
    assert len(listed) == 6
    assert not any("aside" in line for line in listed)
    every = [str(photos), "--val", f"{photos}/**/*", "--out", str(tmp_path / "all")]
    assert main(["pretrain", *every, *sized("--steps", 1)]) == 2
    assert "holds all training images" in capsys.readouterr().err
