"""Sheets and animations of reconstructions: over steps, mask ratios and seeds."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from openmae.cli import main


@pytest.fixture(scope="module")
def stepped(run, sized, classes, tmp_path_factory):
    """A run with the checkpoints 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("stepped") / "run"
    options = sized("--recipe", "laptop", "--save-every", 1, "--keep", 5)
    run("pretrain", classes, "--out", folder, *options, "--steps", 3)
    return folder


def told(words, capsys) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_column_has_the_numbers_of_its_own_picture(stepped, classes, tmp_path, capsys):
    words = ["reconstruct", stepped, classes, "-o", tmp_path / "x.png", "--max-images", 3]
    for across, option, values in (
        ("ratios", "--mask-ratio", ("0.5", "0.75")),
        ("seeds", "--seed", ("4", "7")),
        ("steps", "--step", ("1", "3")),
    ):
        found = told([*words, "--grid", "--across", across, "--values", *values], capsys)
        for value in values:
            alone = told([*words, option, value], capsys)
            for name in ("reconstruction_mse", "mean_fill_mse"):
                assert found[f"{name}_at_{value}"] == pytest.approx(alone[name], rel=1e-6)
        assert (
            found["reconstruction_mse_at_" + values[0]]
            != (found["reconstruction_mse_at_" + values[1]])
        )


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_the_animation_has_a_frame_for_each_step(suffix, stepped, classes, tmp_path, run):
    file = tmp_path / f"v.{suffix}"
    words = ("--max-images", 1, "--video", file)
    said = run("reconstruct", stepped, classes, "-o", tmp_path / "x.png", *words)
    assert f"{file}   3 frames" in said
    with Image.open(file) as video:
        assert video.n_frames == 3
        assert video.info["loop"] == 0
        first = video.convert("RGB").tobytes()
        video.seek(2)
        assert video.convert("RGB").tobytes() != first


def test_many_images_stand_on_one_sheet(trained, classes, tmp_path, run):
    options = ("--grid", "--max-images", 10)
    run("reconstruct", trained, classes, "-o", tmp_path / "x.png", *options)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.height > 3 * 112  # three rows of four
        assert sheet.width > 12 * 96


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--across", "seeds"], "--across seeds says what changes in --grid or --video"),
        (["--values", "2"], "--values 2 are those of --across"),
        (["--grid", "--across", "ratios", "--values", "0.5", "2"], "from 0.05 to 0.95"),
        (["--grid", "--across", "seeds", "--values", "0.5"], "seeds are whole numbers"),
        (["--grid", "--across", "steps", "--values", "9"], "no such checkpoint. Saved: 1, 2, 3"),
        (["--grid", "--across", "ratios", "--hide", "0"], "--hide 0 is one value"),
        (["--video", "x.mp4"], "must end in .webp or .gif (.mp4 needs a video encoder"),
    ],
)
def test_mistakes_are_named(words, sentence, trained, classes, tmp_path, cli):
    said = cli("reconstruct", trained, classes, "-o", tmp_path / "x.png", *words)
    assert said.code == 2
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []
