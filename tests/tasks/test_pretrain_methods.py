"""Methods other than MAE on the one loop: a run end to end, exact resume, what is refused."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
import yaml

import openmae
from openmae.config import resolve
from openmae.config.pretrain import PretrainConfig
from openmae.engine.runfolder import read_jsonl
from openmae.errors import UsageError
from openmae.tasks.method import build_method, methods
from openmae.tasks.pretrain import Pretraining
from openmae.weights.methodfile import save_method

SMALL = ("--image-size", 16, "--patch-size", 4, "--dim", 32, "--depth", 1, "--heads", 2)
RUN = ("--batch-size", 8, "--workers", 0, "--seed", 3, "--warmup-epochs", 0)
STEPS = ("--steps", 4, "--save-every", 2, "--log-every", 1)
HEADS = ("--method-args", "hidden=16", "out=8")


@pytest.mark.parametrize("name", ["simclr", "byol", "mocov3", "dino", "ibot"])
def test_a_run_and_its_exact_resume(name, cli, photos, tmp_path, logged):
    words = ("--method", name, *SMALL, *RUN, *STEPS, *HEADS, "--weight-decay-end", 0.4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = cli("pretrain", photos, "--out", whole, *words)
    assert said.code == 0, said.err
    assert f"method {name}" in said.out
    assert "reconstruct" not in said.out
    records = [r for r in read_jsonl(whole / "metrics.jsonl") if "loss" in r]
    assert all(r["feature_spread"] > 0 and r["effective_rank"] >= 1 for r in records)
    decays = [0.4 + (0.05 - 0.4) * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert [r["weight_decay"] for r in records] == pytest.approx(decays, rel=1e-9)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step_00000004")  # as if killed before that save
    again = cli("pretrain", photos, "--out", cut, *words)
    assert again.code == 0, again.err
    assert "at step 2 of 4" in again.out
    assert logged(cut) == logged(whole)
    ours, theirs = (openmae.load(run).state_dict() for run in (whole, cut))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    moved = [n for n in ours if n.endswith(("running_mean", "center"))]
    assert moved, "BatchNorm keeps statistics, DINO a centre"
    assert all(ours[n].any() for n in moved)
    said = cli("knn", whole, "digits", "--json")
    assert said.code in (0, 3), said.err  # digits have one channel: said, no traceback
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ["simmim", "maskfeat"])
def test_a_method_with_defaults_of_its_own_goes_on_as_it_began(name, cli, photos, tmp_path, logged):
    words = ("--method", name, "--mask-unit", 2, *SMALL, *RUN, *STEPS)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = cli("pretrain", photos, "--out", whole, *words)
    assert said.code == 0, said.err
    assert not any("weight_decay" in r for r in read_jsonl(whole / "metrics.jsonl")), "it stays"
    saved = yaml.safe_load((whole / "config.yaml").read_text())
    assert (saved["mask_tokens"], saved["decoder"]) == ("encoder", "linear")
    assert saved["target"] == saved["resolved"]["predicts"] == openmae.load(whole).target
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step_00000004")
    again = cli("pretrain", photos, "--out", cut, *words)
    assert again.code == 0, again.err
    assert logged(cut) == logged(whole)
    other = cli("pretrain", photos, "--out", tmp_path / "o", "--recipe", whole / "config.yaml")
    assert other.code == 0, other.err
    assert logged(tmp_path / "o") == logged(whole), "the configuration of a run is whole"


def test_what_means_nothing_is_refused(cli, photos, tmp_path):
    for words, told in [
        (("--method", "simclrr"), "Did you mean simclr?"),
        (("--method", "classify"), "should be one of mae"),
        (("--method", "simclr", "--method-args", "temprature=0.1"), "Did you mean temperature?"),
        (("--method", "simclr", "--method-args", "temperature=x"), "should be a number"),
        (("--method", "simclr", "--method-args", "blur=2"), "should be true or false"),
        (("--method", "simclr", "--method-args", "temperature"), "should be NAME=VALUE"),
        (
            ("--method", "byol", "--method-args", "momentum=2"),
            "--method-args momentum=2.0: should be between",
        ),
        (("--method", "simclr", "--decoder-dim", 8), "--decoder-dim means nothing"),
        (("--method", "simclr", "--mask-ratio", 0.5), "--mask-ratio means nothing"),
        (("--method", "simclr", "--val", 0.2), "has no loss of held-out images"),
        (("--method", "simclr", "--micro-batch", 4), "the loss is over the whole batch"),
        (("--method-args", "mask_ratio=0.5",), "method mae has no mask_ratio"),
        (("--method", "maskfeat", "--target-args", "cel=4"), "target hog has no cel. Did you mean"),
    ]:  # fmt: skip
        said = cli("pretrain", photos, "--out", tmp_path / "x", *SMALL, *RUN, *STEPS, *words)
        assert said.code == 2, (words, said.out, said.err)
        assert told in said.err, (words, said.err)
        assert len(said.err.strip().splitlines()) <= 4
        assert not (tmp_path / "x").exists()


def test_what_is_typed_is_refused_with_a_recipe_too(cli, photos, tmp_path):
    """What stands in a recipe of another method goes silently."""
    recipe = tmp_path / "mae.yaml"
    recipe.write_text("mask_ratio: 0.5\ncrop: 0.3\nimage_size: 16\npatch_size: 4\nsteps: 1\n")
    words = ("--recipe", recipe, "--method", "simclr", "--dim", 32, "--depth", 1, "--heads", 2)
    words += ("--batch-size", 8, "--workers", 0, "--out", tmp_path / "x", *HEADS)
    for more, told in [
        (("--decoder-dim", 8), "--decoder-dim means nothing to --method simclr"),
        (("--crop", 0.5), "--crop means nothing"),
        (("--val", 0.2), "has no loss of held-out images"),
    ]:
        said = cli("pretrain", photos, *words, *more)
        assert (said.code, told in said.err) == (2, True), (said.out, said.err)
        assert not (tmp_path / "x").exists()
    with pytest.raises(UsageError, match="means nothing to --method byol"):
        openmae.pretrain(
            photos, out=tmp_path / "x", recipe=str(recipe), method="byol", mask_ratio=0.6
        )
    assert cli("pretrain", photos, *words, "--dry-run").code == 0


@pytest.mark.parametrize("name", methods())
def test_an_argument_that_is_none_is_a_mistake_in_python_too(name):
    with pytest.raises(UsageError, match=r"method \w+ has no image_sise. Did you mean image_size"):
        methods()[name](image_sise=16)
    with pytest.raises(UsageError, match=r"has no zzz\. It has .*encoder"):
        methods()[name](zzz=1)


@pytest.mark.parametrize(
    ("target", "told"),
    [("hog", "has no cel. Did you mean cell"), ("norm_pixels", "has no cel. It has none")],
)
def test_so_is_an_argument_that_a_target_does_not_have(target, told):
    sizes = {"encoder": "vit_tiny_patch16_224", "image_size": 16, "decoder_depth": 1}
    with pytest.raises(UsageError, match=f"target {target} {told}"):
        openmae.MAE(**sizes, target=target, target_args={"cel": 1})


def test_every_method_tells_its_views_or_takes_crops():
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    for name, kind in methods().items():
        method = kind(
            encoder="vit_tiny_patch16_224", image_size=16, patch_size=4, encoder_args=sizes
        )
        batch = method.example(torch.zeros(3, 3, 16, 16))
        assert len(batch["image"]) == 3, name
        assert (method.views() is None) == kind.masked, name
        assert method.trained_encoder().image_size == (16, 16)


def test_a_recipe_of_mae_says_nothing_of_another_methods_masks():
    recipe = {"mask": "grid", "target": "pixels", "decoder_dim": 64, "batch_size": 8, "steps": 1}
    given = {"data": "x", "method": "maskfeat"}
    config = resolve(PretrainConfig, given, recipe)
    assert config.batch_size == 8
    assert not config.model_fields_set & {"mask", "target", "decoder_dim"}
    assert resolve(PretrainConfig, {"data": "x", "method": "mae"}, recipe).mask == "grid"
    whole = resolve(PretrainConfig, given, recipe | {"method": "maskfeat"})
    assert whole.mask == "grid", "a recipe of the method is taken whole"


_TEACHERS = {
    **dict.fromkeys(("byol", "mocov3"), ("momentum.encoder", "momentum.projector", "projector")),
    **dict.fromkeys(("dino", "ibot"), ("teacher.encoder", "teacher.projector", "head")),
}


@pytest.mark.parametrize("name", _TEACHERS)
def test_a_teacher_begins_as_the_student_that_init_gives(name, tmp_path):
    sizes = {"dim": 32, "depth": 1, "heads": 2, "patch_size": 4, "image_size": 16}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    before = build_method(PretrainConfig(data="x", **sizes, seed=2), half)
    save_method(tmp_path / "mae.safetensors", before)
    more = {"method": name, "method_args": ("hidden=16", "out=8"), "seed": 1}
    config = PretrainConfig(data="x", **sizes, **more, init=str(tmp_path / "mae.safetensors"))
    method = build_method(config, half)
    student, projector = method.encoder, method.get_submodule(_TEACHERS[name][2])
    with torch.no_grad():
        next(projector.parameters()).add_(1)
    Pretraining().start(config, method)
    assert same(student.vit.blocks, before.encoder.vit.blocks)
    teacher, head = (method.get_submodule(n) for n in _TEACHERS[name][:2])
    assert same(teacher, student)
    assert same(head, projector)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[n]) for n, v in ours.items())
