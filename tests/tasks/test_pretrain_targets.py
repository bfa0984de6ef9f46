"""Targets other than pixels: a run end to end, its checkpoint, what it refuses."""

from __future__ import annotations

import shutil

import torch

import openmae
from openmae.config import resolve
from openmae.config.pretrain import PretrainConfig

STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1)


def pretrain(cli, photos, out, tiny, *words):
    return cli("pretrain", photos, "--out", out, *tiny, *STEPS, *words)


def test_pca_learns_of_the_data_and_resumes_exactly(
    cli, tiny, photos, tmp_path, monkeypatch, logged
):
    words = ("--target", "pca", "--target-args", "components=5")
    said = pretrain(cli, photos, tmp_path / "whole", tiny, *words)
    assert said.code == 0, said.err
    assert "target pca: 5 components of" in said.out
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken/checkpoints/step_00000004")  # as if killed before that save

    def again_learned(*_):
        raise AssertionError("the basis is in the checkpoint")

    monkeypatch.setattr("openmae.tasks.pretrain.learn_target", again_learned)
    again = pretrain(cli, photos, tmp_path / "broken", tiny, *words)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert logged(tmp_path / "broken") == logged(tmp_path / "whole")
    whole, broken = (openmae.load(tmp_path / name) for name in ("whole", "broken"))
    assert whole.target == "pca"
    theirs = broken.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in whole.state_dict().items())
    eye = whole.predicts.basis.T @ whole.predicts.basis
    torch.testing.assert_close(eye, torch.eye(5), rtol=0, atol=1e-5)
    assert whole.predicts.mean.any()
    for words in (
        ("reconstruct", tmp_path / "whole", photos, "-o", tmp_path / "x.png"),
        ("convert", tmp_path / "whole", "--to", "official", "-o", tmp_path / "x.pth"),
        ("convert", tmp_path / "whole", "--to", "hf", "-o", tmp_path / "hf"),
    ):
        said = cli(*words)
        assert said.code in (2, 4), (words, said.out)
        assert "pca" in said.err
        assert len(said.err.strip().splitlines()) <= 4


def test_hog_trains(cli, tiny, photos, tmp_path, logged):
    said = pretrain(cli, photos, tmp_path / "hog", tiny, "--target", "hog")
    assert said.code == 0, said.err
    assert len(logged(tmp_path / "hog")) == 4


def test_wrong_arguments(cli, tiny, photos, tmp_path):
    for words, told in [
        (("--target", "hog", "--target-args", "cel=4"), "Did you mean cell?"),
        (("--target", "hog", "--target-args", "cell=x"), "should be a whole number"),
        (("--target", "hog", "--target-args", "cell"), "should be NAME=VALUE"),
        (("--target", "hog", "--target-args", "cell=3"), "do not fill a patch of 8x8"),
        (("--target", "pca", "--target-args", "components=999"), "a patch has 192 values"),
        (("--target", "pixels", "--target-args", "cell=4"), "target pixels has no cell"),
    ]:
        said = pretrain(cli, photos, tmp_path / "no", tiny, *words)
        assert said.code == 2, (words, said.out)
        assert told in said.err
        assert len(said.err.strip().splitlines()) <= 4


def test_arguments_of_another_target_of_the_recipe_go():
    base = {"target": "hog", "target_args": ["cell=4"], "steps": 1}
    config = resolve(PretrainConfig, {"data": "digits", "target": "pca"}, base)
    assert config.target_args == ()


def test_a_run_keeps_its_kind_of_target(cli, tiny, photos, tmp_path):
    out = tmp_path / "run"
    assert pretrain(cli, photos, out, tiny, "--time-limit", "0s").code == 75
    before = (out / "config.yaml").read_bytes()
    other = ("--target", "hog", "--allow-change", "target")
    said = pretrain(cli, photos, out, tiny, *other)
    assert said.code == 2
    assert "the run predicts norm_pixels" in said.err
    assert (out / "config.yaml").read_bytes() == before
    near = ("--target", "pixels", "--allow-change", "target")
    assert pretrain(cli, photos, out, tiny, *near).code == 0
