"""`--target features` end to end: a continued run needs the teacher's file no more, and what is
refused.
"""

from __future__ import annotations

import shutil

import pytest
import torch

import openmae
from openmae.engine.runfolder import read_jsonl

STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1)


def pretrain(cli, photos, out, tiny, *words):
    return cli("pretrain", photos, "--out", out, *tiny, *STEPS, "--target", "features", *words)


def rows(out, name="loss"):
    return [(r["step"], r[name]) for r in read_jsonl(out / "metrics.jsonl") if name in r]


@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_resumes_exactly_without_the_file(kind, cli, tiny, classes, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "teacher")
    ema = ("teacher=ema", "momentum=0.5", "momentum_end=0.9")
    words = ("--target-args", *((f"teacher={tmp_path / 'teacher'}",) if kind == "frozen" else ema))
    words += ("--micro-batch", 2)
    said = pretrain(cli, classes, tmp_path / "whole", tiny, *words)
    assert said.code == 0, said.err
    assert ("target features: teacher" in said.out) == (kind == "frozen")
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken/checkpoints/step_00000004")  # as if killed before that save
    again = pretrain(cli, classes, tmp_path / "broken", tiny, *words)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    whole, broken = (openmae.load(tmp_path / name) for name in ("whole", "broken"))
    theirs = broken.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in whole.state_dict().items())
    spread = rows(tmp_path / "whole", "target_spread")
    assert len(spread) == (4 if kind == "ema" else 0)
    teacher, own = whole.predicts.teacher.vit.state_dict(), whole.encoder.vit.state_dict()
    came = openmae.load(trained).encoder.vit.state_dict()
    name = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(teacher[name], own[name])
    assert torch.equal(teacher[name], came[name]) == (kind == "frozen")
    said = cli("reconstruct", tmp_path / "whole", classes, "-o", tmp_path / "x.png")
    assert said.code in (2, 4)
    assert "features" in said.err


def test_a_moving_teacher_begins_where_its_encoder_does(cli, tiny, classes, trained, tmp_path):
    words = ("--init", trained, "--target-args", "momentum=1", "momentum_end=1")
    words += ("--mask-tokens", "encoder", "--decoder", "linear")
    said = pretrain(cli, classes, tmp_path / "run", tiny, *words)
    assert said.code == 0, said.err
    teacher = openmae.load(tmp_path / "run").predicts.teacher.vit.state_dict()
    came = openmae.load(trained).encoder.vit.state_dict()
    assert all(torch.equal(teacher[n], t) for n, t in came.items())


def test_wrong_arguments(cli, tiny, classes, tmp_path):
    for words, code, told in [
        (("teacher=/no/such",), 4, "teacher=/no/such: /no/such does not exist"),
        (("teacher=resnet50",), 2, "teacher=resnet50: resnet50 is not a plain vision"),
        (("teacher=vit_tiny_patch16_22",), 2, "is not a model that timm knows"),
        (("teacher=vit_tiny_patch16_224",), 2, "14x14 patches, this run 4x4"),
        (("momentum=2",), 2, "momentum=2.0 should be between 0 and 1"),
        (("layers=x",), 2, "should be a whole number"),
        (("layer=2",), 2, "Did you mean layers?"),
        (("create=x",), 2, "target features has no create"),
    ]:
        said = pretrain(cli, classes, tmp_path / "no", tiny, "--target-args", *words)
        assert said.code == code, (words, said.err)
        assert told in said.err
        assert len(said.err.strip().splitlines()) <= 4
        assert not (tmp_path / "no").exists()
