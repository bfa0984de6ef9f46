"""`openmae quickstart`, shortened to two epochs, and the Python API."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path

import numpy as np
import pytest

import openmae
from openmae.config import TASKS, settings
from openmae.errors import DataError, UsageError

PROMISED = {
    "knn_accuracy", "probe_accuracy", "random_weights_probe_accuracy", "raw_pixels_knn_accuracy",
    "reconstruction_mse", "mean_fill_mse", "n", "seed",
}  # fmt: skip


def test_quickstart_has_the_promised_results_and_repeats_them(run, tmp_path):
    words = ("quickstart", "--epochs", 2, "--out", tmp_path / "run")
    said = run(*words)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results.keys() >= PROMISED | {"loss", "steps", "images_seen", "skipped_steps"}
    assert all(isinstance(v, (int, float)) for v in results.values())
    assert (results["n"], results["seed"], results["steps"]) == (360, 0, 23)
    assert results["raw_pixels_knn_accuracy"] > 0.95  # nearest pixels are strong on digits
    assert "Raw pixels win" in said
    assert (tmp_path / "run/pictures/reconstruction.png").is_file()
    started = time.monotonic()
    again = run(*words)
    assert time.monotonic() - started < 60
    assert "finished at step 23" in again
    assert json.loads((tmp_path / "run/results.json").read_text()) == results


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"models"}))
def test_a_function_for_each_command_with_its_settings(name):
    word = {"report": "write_report"}.get(name, name.replace(" ", "_"))  # a package has the name
    function = getattr(openmae, word)
    assert function.__name__ == name.replace(" ", "_")
    shown = inspect.signature(function).parameters
    assert set(settings(name).model_fields) <= shown.keys()
    assert shown.keys() - set(settings(name).model_fields) <= {"recipe", "dry_run", "allow_change"}
    if "data" in shown and name != "quickstart":
        assert shown["data"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert word in dir(openmae)
    assert function.__doc__


def test_the_python_api_end_to_end(classes, tmp_path, capsys):
    photos, run = Path(classes), tmp_path / "run"
    small = {"dim": 16, "depth": 1, "heads": 2, "image_size": (32, 32), "patch_size": 8}
    small |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "batch_size": 4}
    results = openmae.pretrain(data=photos, out=run, steps=2, recipe="laptop", **small)
    assert results["steps"] == 2
    assert results.folder == run
    assert results.exit_code == 0
    assert openmae.pretrain(photos, out=run)["loss"] == results["loss"]  # finished: told again
    assert 0 <= openmae.knn(run, photos, k=3)["knn_accuracy"] <= 1
    assert openmae.probe(model=run, data=photos, baselines=False)["n"] > 0
    assert openmae.embed(run, photos, out=tmp_path / "x.npz")["n"] == 30
    picture = openmae.reconstruct(run, [photos / "ant/00.png"], out=tmp_path / "x.png")
    assert picture["n"] == 1
    assert np.isfinite(picture["reconstruction_mse"])
    assert (tmp_path / "x.png").is_file()
    assert "vit_tiny_patch16_224" in openmae.list_models("vit_tiny")
    capsys.readouterr()


def test_mistakes_in_python_are_spelled_as_in_python(tmp_path):
    with pytest.raises(UsageError, match=r"mask_ratio = 75"):
        openmae.pretrain("photos", mask_ratio=75)
    with pytest.raises(UsageError, match=r"maskratio is not a setting.*mask_ratio"):
        openmae.pretrain("photos", maskratio=0.5)
    with pytest.raises(UsageError, match="positional"):
        openmae.knn("a", "b", "c")
    with pytest.raises(DataError, match="does not exist"):
        openmae.pretrain(tmp_path / "missing", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(AttributeError, match="no attribute"):
        openmae.pretrian  # noqa: B018


def test_a_dry_run_from_python(classes, tmp_path, capsys):
    results = openmae.pretrain(classes, out=tmp_path / "new", dry_run=True, steps=7)
    assert results["steps"] == 7
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
