"""`openmae tokenize`: a run end to end, exact resume, ranks, what it measures, what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import openmae
from openmae.data.sources import open_source
from openmae.engine.runfolder import read_jsonl
from openmae.models.codebook import normalised
from openmae.tasks.tokenize import measure

DIGITS = ("digits", "--channels", 1, "--image-size", 8, "--patch-size", 4, "--codes", 12)
RUN = ("--batch-size", 8, "--workers", 0, "--seed", 3)
STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1)


def same(first, second):
    ours, theirs = (openmae.load(run).state_dict() for run in (first, second))
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[n]) for n, v in ours.items())


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_a_run_and_its_exact_resume(kind, cli, logged, tmp_path):
    words = (*DIGITS, *RUN, *STEPS, "--kind", kind)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = cli("tokenize", *words, "--out", whole)
    assert said.code == 0, said.err
    assert f"{kind}, 12 codes" in said.out
    assert "of 12 used, perplexity" in said.out
    assert "--method beit --target-args tokenizer=" in said.out
    assert not (whole / "encoder.safetensors").exists()
    assert Image.open(whole / "pictures/codes.png").size[0] > 4 * 24
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step_00000004")  # as if killed before that save
    again = cli("tokenize", *words, "--out", cut)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert logged(cut) == logged(whole)
    assert same(cut, whole)
    assert (cut / "tokenizer.safetensors").read_bytes() == (
        whole / "tokenizer.safetensors"
    ).read_bytes()
    finished = cli("tokenize", *words, "--out", cut)
    assert (finished.code, "finished at step 4" in finished.out) == (0, True)


def test_what_is_measured(cli, tmp_path):
    assert cli("tokenize", *DIGITS, *RUN, *STEPS, "--out", tmp_path / "t").code == 0
    found = json.loads((tmp_path / "t/results.json").read_text())
    model = openmae.load(tmp_path / "t")
    source = open_source("digits")
    images = np.stack([source[i]["image"] for i in range(found["n"])])
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    goal = normalised(model.patches(x).double()).flatten(0, 1)
    far = torch.cdist(goal, model.codebook.codes.detach().double()).square() / 16
    nearest, ids = far.min(dim=1)
    count = ids.bincount(minlength=12).double()
    share = count[count > 0] / len(ids)
    assert found["n"] == 1437
    assert found["tokens"] == len(ids) == 4 * 1437
    assert found["error"] == pytest.approx(float(nearest.mean()), rel=1e-5)
    assert found["mean_fill_error"] == pytest.approx(float(goal.square().mean()), rel=1e-5)
    assert found["codes_used"] == pytest.approx(float((count > 0).double().mean()))
    assert found["perplexity"] == pytest.approx(float((-share * share.log()).sum().exp()))
    assert measure(model, open_source("digits"), 99)[0]["error"] == pytest.approx(found["error"])


def test_held_out_images(cli, tmp_path):
    words = ("--val", "digits", "--eval-every", 0.01)
    assert cli("tokenize", *DIGITS, *RUN, *STEPS, *words, "--out", tmp_path / "t").code == 0
    found = json.loads((tmp_path / "t/results.json").read_text())
    assert (found["measured_on"], found["n"]) == ("held-out images", 360)
    found = [r for r in read_jsonl(tmp_path / "t/metrics.jsonl") if "val_error" in r]
    assert len(found) == 2
    assert all(r["val_error"] > 0 and 1 <= r["val_perplexity"] <= 12 for r in found)


def test_mistakes(cli, make_images, tmp_path):
    photos = make_images(tmp_path / "photos")
    small = ("--image-size", 32, "--patch-size", 8, *RUN, *STEPS)
    for words, code, told in [
        (("--kind", "kmean"), 2, "Did you mean kmeans?"),
        (("--codes", 1), 2, "--codes 1"),
        (("--codes", 5000), 2, "5000 codes, but only"),
        (("--patch-size", 5), 2, "not a multiple of patch 5"),
        (("--channels", 2), 3, "channels"),
        (("--parallel", "fsdp"), 2, "too small to be shared out"),
        (("--ema", 0.9), 2, "have no average"),
        (("--mask-ratio", 0.5), 2, "mask-ratio"),
        (("--recipe", "digits"), 2, "no such recipe of tokenize"),
    ]:
        kept = _without(small, words[0])
        said = cli("tokenize", photos, *kept, *words, "--out", tmp_path / "x")
        assert said.code == code, (words, said.out, said.err)
        assert told in said.err, (words, said.err)
        assert len(said.err.strip().splitlines()) <= 4
        assert not (tmp_path / "x").exists()


def _without(words, name):
    words = list(words)
    if name in words:
        at = words.index(name)
        del words[at : at + 2]
    return words


def test_a_tokenizer_is_no_encoder(cli, tmp_path):
    out = tmp_path / "t"
    assert cli("tokenize", *DIGITS, *RUN, *STEPS, "--out", out).code == 0
    for words in (
        ("knn", out, "digits"),
        ("embed", out, "digits", "-o", tmp_path / "x.npz"),
        ("finetune", out, "digits"),
        ("reconstruct", out, "digits", "-o", tmp_path / "x.png"),
        ("convert", out / "tokenizer.safetensors", "--to", "timm", "-o", tmp_path / "x"),
        ("export", out, "-o", tmp_path / "x.onnx"),
        ("pretrain", "digits", "--recipe", "digits", "--init", out, "--out", tmp_path / "p"),
        ("pretrain", "digits", "--recipe", "digits", "--out", out),
    ):
        said = cli(*words)
        assert said.code in (2, 4), (words, said.out)
        assert "tokeniz" in said.err, words
        assert len(said.err.strip().splitlines()) <= 4
    said = cli("inspect", out)
    assert (said.code, "tokenizer (kmeans, 12 codes), patch 4x4" in said.out) == (0, True)
