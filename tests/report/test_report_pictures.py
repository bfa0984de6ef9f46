"""Curves and sheets: they come out whatever the log and the file names hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openmae.engine.runfolder import RunFolder
from openmae.report.display import Display, to_rgb
from openmae.report.figures import plot_curves
from openmae.report.pictures import LEAK, Reconstruction, from_visible, sheet


def row(path: str = "x.png", channels: int = 3, size=(16, 24), note: str = "") -> Reconstruction:
    made = np.random.default_rng(0).random((4, channels, *size), dtype=np.float32)
    return Reconstruction(path, tuple(made), 0.25, 0.5, 0.7, note)


def log(folder: Path, rows: list[dict], torn: str = "") -> RunFolder:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (folder / "metrics.jsonl").write_text(text + torn, encoding="utf-8")
    return RunFolder(folder)


ROWS = [{"step": s, "epoch": s / 10, "loss": 1 / s} for s in range(1, 30)]


@pytest.mark.parametrize(
    "more",
    [
        [],
        [{"step": 20, "val_loss": 0.5}, {"step": 29, "val_loss": 0.4}],
        [{"step": 20, "knn_accuracy": 0.5, "val_loss": 0.5}],
        [{"step": 30, "epoch": 3.0, "loss": None}],
    ],
    ids=["loss", "val", "knn", "skipped"],
)
def test_curves_are_drawn_from_a_log_with_torn_lines(more, tmp_path):
    run = log(tmp_path, ROWS + more, '{"step": 31, "lo')
    with run.metrics.open("ab") as file:
        file.write(b"\n\xff\xfe\n[1]\nnull\n" + json.dumps(ROWS[-1]).encode() + b"\n")
    plot_curves(run)
    with Image.open(tmp_path / "pictures/loss.png") as picture:
        picture.load()
        assert min(picture.size) > 200
        assert len(picture.convert("L").getcolors()) > 10  # something is drawn


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "epoch": 0.1, "loss": None}]])
def test_nothing_to_draw_is_no_error(rows, tmp_path):
    plot_curves(log(tmp_path, rows))
    assert not (tmp_path / "pictures").exists()


def test_no_log_at_all_is_no_error(tmp_path):
    plot_curves(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["x" * 5000, "two\nlines\r\n.png", "bytes-\udcff\udcfe.png", "", "日本語 \U0001f600.png"],
)
def test_hostile_file_names_make_a_sheet_of_sober_size(name):
    picture = sheet([row(name), row()], "title")
    plain = sheet([row(), row()], "title")
    assert picture.height == plain.height
    assert picture.width <= plain.width + 600


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels(channels):
    made = row(channels=channels)
    picture = sheet([made], "title")
    assert picture.mode == "RGB"
    assert picture.width >= 4 * 24
    shown = to_rgb(made.pictures[0])
    assert shown.shape == (16, 24, 3)
    expected = made.pictures[0][:3] if channels >= 3 else made.pictures[0][:1].repeat(3, axis=0)
    np.testing.assert_allclose(shown / 255, expected.transpose(1, 2, 0), atol=0.5 / 255 + 1e-6)


def test_small_pictures_are_enlarged_without_smoothing():
    made = row(size=(8, 8))
    pixels = np.asarray(sheet([made], "title"))
    colours = {tuple(c) for c in to_rgb(made.pictures[0]).reshape(-1, 3)}
    top, left = next(
        (y, x) for y in range(pixels.shape[0]) for x in (8,) if tuple(pixels[y, x]) in colours
    )
    tile = pixels[top : top + 160, left : left + 160]
    np.testing.assert_array_equal(tile[10::20, 10::20], to_rgb(made.pictures[0]))
    assert {tuple(c) for c in tile.reshape(-1, 3)} <= colours


def test_a_leak_is_written_in_red():
    def red(note: str) -> int:
        pixels = np.asarray(sheet([row(note=note)], "title")).astype(int)
        foot = pixels[-30:]
        return int(((foot[..., 0] > 130) & (foot[..., 1] < 60) & (foot[..., 2] < 80)).sum())

    assert red(LEAK) > 50
    assert red("scale from visible patches only") == 0


def test_the_sentence_says_better_and_worse():
    assert "50% better" in row().sentence()
    worse = Reconstruction("x", row().pictures, 0.5, 0.25, 0.7, "")
    assert "100% worse" in worse.sentence()
    flat = Reconstruction("x", row().pictures, 0.0, 0.0, 0.0, "")
    assert "0%" in flat.sentence()


def test_the_share_is_of_the_errors_that_are_shown():
    """Of MSE a quarter is of RMSE a half."""
    display = Display((0,), (1,), 1, (-20.0, 20.0))
    deep = Reconstruction("x", row().pictures, 0.01, 0.04, 0.7, "", display)
    assert deep.sentence() == "masked-patch RMSE 4, mean fill 8, 50% better"


def test_statistics_come_from_visible_patches_near_by():
    values = torch.tensor([[[1.0], [100.0], [3.0], [100.0]]])
    hidden = torch.tensor([[[False], [True], [False], [True]]])
    smooth = from_visible(values, hidden, (1, 4))[0, :, 0]
    assert smooth.min() >= 1
    assert smooth.max() <= 3
    assert float(smooth[1]) == pytest.approx(2.0)
    assert smooth[0] < smooth[1] < smooth[3]
