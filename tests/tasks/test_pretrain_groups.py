"""`--channel-groups` end to end: continuation, what later commands make of the run, mistakes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import openmae
from openmae.engine.runfolder import read_jsonl

STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1, "--channels", 5)
GROUPS = ("--channel-groups", "1,3", "2", "4-5")


@pytest.fixture(scope="module")
def bands(make_images, tmp_path_factory):
    root = tmp_path_factory.mktemp("bands")
    for number, name in enumerate(("ant", "bee")):
        make_images(root / name, 8, channels=5, first=100 * number)
    return root


@pytest.fixture(scope="module")
def grouped(run, sized, bands, tmp_path_factory):
    out = tmp_path_factory.mktemp("grouped") / "run"
    told = run("pretrain", bands, "--out", out, *sized(), *STEPS, *GROUPS)
    assert "independent masks of channel groups 2+1+2" in told
    assert "reconstruct" not in told
    return out


def rows(out):
    return [(r["step"], r["loss"]) for r in read_jsonl(out / "metrics.jsonl") if "loss" in r]


def test_resumes_exactly(cli, tiny, bands, grouped, tmp_path):
    shutil.copytree(grouped, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken/checkpoints/step_00000004")  # as if killed before that save
    again = cli("pretrain", bands, "--out", tmp_path / "broken", *tiny, *STEPS, *GROUPS)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert rows(tmp_path / "broken") == rows(grouped)
    whole, broken = (openmae.load(path) for path in (grouped, tmp_path / "broken"))
    theirs = broken.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in whole.state_dict().items())
    assert whole.encoder.groups == ((0, 2), (1,), (3, 4))


def test_later_commands_know_the_groups(cli, bands, grouped, tmp_path):
    model = grouped / "encoder.safetensors"
    assert "channel groups 1,3 2 4,5" in cli("inspect", model).out
    said = cli("embed", model, bands, "-o", tmp_path / "x.npz")
    assert said.code == 0, said.err
    assert np.load(tmp_path / "x.npz")["vector"].shape == (16, 16)
    said = cli("knn", model, bands, "--out", tmp_path / "knn")
    assert said.code == 0, said.err
    words = (
        "--epochs",
        1,
        "--batch-size",
        8,
        "--workers",
        0,
        "--image-size",
        48,
        "--randaug",
        "none",
    )
    said = cli("finetune", model, bands, "--out", tmp_path / "tuned", *words, "--device", "cpu")
    assert said.code == 0, said.err
    assert "4x4 resized to 6x6" in said.out
    tuned = openmae.load(tmp_path / "tuned").encoder
    assert tuned.groups == ((0, 2), (1,), (3, 4))
    assert tuned.vit.pos_embed.shape == (1, 1 + 3 * 36, 16)


def test_what_needs_one_token_a_patch_refuses(cli, bands, grouped, tmp_path):
    for words in (
        ("reconstruct", grouped, bands, "-o", tmp_path / "x.png"),
        ("convert", grouped, "--to", "official", "-o", tmp_path / "x.pth"),
        ("convert", grouped, "--to", "timm", "-o", tmp_path / "timm"),
        ("convert", grouped, "--to", "hf", "-o", tmp_path / "hf"),
    ):
        said = cli(*words)
        assert said.code == 2, (words, said.out)
        assert "channel groups" in said.err
        assert len(said.err.strip().splitlines()) == 1
    said = cli("convert", grouped, "--to", "openmae", "-o", tmp_path / "x.safetensors")
    assert said.code == 0, said.err


def test_init(cli, tiny, bands, grouped, tmp_path):
    words = ("pretrain", bands, *tiny, *STEPS, "--init", grouped)
    said = cli(*words, "--out", tmp_path / "same", *GROUPS, "--group-masks", "same")
    assert said.code == 0, said.err
    said = cli(*words, "--out", tmp_path / "other")
    assert said.code == 2
    assert "has channel groups 1,3 2 4,5, this run 1,2,3,4,5" in said.err


def test_mistakes(cli, tiny, bands, tmp_path):
    for words, told in [
        (("1,2", "4-5"), "channel 3 of 5 is in no group"),
        (("1,2,3", "3-5"), "channel 3 is in two groups"),
        (("1-6",), "there is no channel 6"),
        (("1,2,x",), "should be numbers from 1"),
        (("0,1,2",), "should count up from 1"),
        (("3-1", "4-5"), "should count up from 1"),
        (("1-3", "4-5", "--decoder", "cross"), "not built for decoder"),
        (("1-3", "4-5", "--target", "hog"), "predict pixels or norm_pixels"),
    ]:
        out = tmp_path / "no"
        said = cli("pretrain", bands, "--out", out, *tiny, *STEPS, "--channel-groups", *words)
        assert said.code == 2, (words, said.out, said.err)
        assert told in said.err, (words, said.err)
        assert not out.exists()
    said = cli("pretrain", bands, "--out", tmp_path, *tiny, *STEPS, "--group-masks", "same")
    assert said.code == 2
    assert "group-masks means nothing" in said.err
    words = ("--steps", 1, "--channels", 5, "--channel-groups", "1-3", "4-5", "--method", "simclr")
    said = cli("pretrain", bands, "--out", tmp_path, *words)
    assert said.code == 2
    assert "channel-groups means nothing to --method simclr" in said.err
