"""Tokens as what a run predicts, and BEiT: from a tokenizer or from the images, exact resume, what
is refused.
"""

from __future__ import annotations

import shutil

import pytest
import torch

import openmae

DIGITS = ("digits", "--channels", 1, "--image-size", 8)
SMALL = (*DIGITS, "--recipe", "digits", "--patch-size", 4, "--dim", 16, "--depth", 1, "--heads", 2)
RUN = ("--batch-size", 8, "--workers", 0, "--seed", 3, "--warmup-epochs", 0)
STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1)
TOKENS = {"mae": ("--target", "tokens"), "beit": ("--method", "beit", "--mask-ratio", 0.5)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, run):
    out = tmp_path_factory.mktemp("tokens") / "tok"
    sizes = ("--patch-size", 4, "--codes", 12, "--mean", 0.4, "--std", 0.3)
    run("tokenize", *DIGITS, *sizes, *RUN, *STEPS, "--out", out)
    return out


@pytest.mark.parametrize("name", TOKENS)
def test_a_run_and_its_exact_resume_without_the_tokenizer(name, cli, logged, tokenizer, tmp_path):
    own, whole, cut = tmp_path / "tok", tmp_path / "whole", tmp_path / "cut"
    shutil.copytree(tokenizer, own)
    words = (*SMALL, *RUN, *STEPS, *TOKENS[name], "--target-args", f"tokenizer={own}")
    said = cli("pretrain", *words, "--out", whole)
    assert said.code == 0, said.err
    assert f"target tokens: tokenizer {own} at step 4" in said.out
    shutil.rmtree(own)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step_00000004")  # as if killed before that save
    again = cli("pretrain", *words, "--out", cut)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert logged(cut) == logged(whole)
    ours, theirs = openmae.load(whole), openmae.load(cut)
    state = theirs.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in ours.state_dict().items())
    assert ours.target == "tokens"
    codes = openmae.load(tokenizer).codebook.codes
    assert torch.equal(ours.predicts.codebook.codes, codes)
    probe = cli("probe", whole, "digits", "--out", tmp_path / "probe")
    assert probe.code == 0, probe.err


@pytest.mark.parametrize("name", TOKENS)
def test_without_a_tokenizer_codes_are_learned_at_the_start(
    name, cli, logged, tmp_path, monkeypatch
):
    words = (*SMALL, *RUN, *STEPS, *TOKENS[name], "--target-args", "codes=6")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = cli("pretrain", *words, "--out", whole)
    assert said.code == 0, said.err
    assert "target tokens: 6 codes, k-means of 2,048 patches of 512 images" in said.out
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step_00000004")

    def again_learned(*_):
        raise AssertionError("the codes are in the checkpoint")

    monkeypatch.setattr("openmae.tasks.pretrain.learn_target", again_learned)
    again = cli("pretrain", *words, "--out", cut)
    assert again.code == 0, again.err
    assert logged(cut) == logged(whole)


def test_mistakes(cli, photos, tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    trained = tmp_path / "mae"
    assert cli("pretrain", *SMALL, *RUN, "--steps", 1, "--out", trained).code == 0
    given = f"tokenizer={tokenizer}"
    for number, (words, code, told) in enumerate([
        ((f"tokenizer={tmp_path / 'nowhere'}",), 4, "does not exist. Give the run folder of"),
        (("tokenizer=nowhere",), 4, "does not exist. Give the run folder of"),
        ((f"tokenizer={tmp_path / 'thesis.txt'}",), 4, "thesis.txt"),
        ((f"tokenizer={trained}",), 2, "a model of another kind"),
        (("tokeniser=x",), 2, "Did you mean tokenizer?"),
        ((given, "codes=7"), 2, "are those of tokenizer"),
        ((given, "--patch-size", 2), 2, "patches of 4x4, this model of 2x2"),
        ((given, "--image-size", 16, "--channels", 3), 2, "reads 1 channels, this model 3"),
        (("kind=vqvae",), 2, "must be trained first: openmae tokenize"),
        (("codes=9999999",), 2, "different patches in"),
        (("codes=1",), 2, "at least 2"),
    ]):  # fmt: skip
        size = () if "--patch-size" in words else ("--patch-size", 4)
        shown = () if "--image-size" in words else ("--image-size", 8, "--channels", 1)
        small = ("--dim", 16, "--depth", 1, "--heads", 2, "--recipe", "digits")
        data = photos if "--image-size" in words else "digits"
        method = (("--target", "tokens"), ("--method", "beit"))[number % 2]
        said = cli(
            "pretrain", data, *small, *shown, *size, *RUN, *STEPS, *method, "--mask", "random",
            "--target-args", *words, "--out", tmp_path / "x",
        )  # fmt: skip
        assert said.code == code, (words, said.out, said.err)
        assert told in said.err, (words, said.err)
        assert len(said.err.strip().splitlines()) <= 4
        assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_beit_beside_mae(cli, tmp_path):
    words = ("--methods", "mae", "beit", "--budget", "steps=2", "--seeds", 1, "--score", "knn")
    small = [w for w in SMALL[1:] if w not in ("--recipe", "digits")]
    said = cli("compare", "digits", *small, "--batch-size", 64, *words, "--out", tmp_path / "c")
    assert said.code == 0, said.err
    assert "beit" in said.out
