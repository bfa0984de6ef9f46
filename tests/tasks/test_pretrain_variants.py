"""`openmae pretrain` with the cheaper variants: what it says, refuses, leaves and continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import openmae
from openmae.cli import main
from openmae.config.base import resolve
from openmae.config.pretrain import PretrainConfig, parse_stage
from openmae.engine import loop
from openmae.engine.runfolder import read_jsonl
from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.tasks.pretrain import stage_starts

STEPS = 12
SMALL = f"""
    pretrain digits --recipe digits --steps {STEPS} --save-every 5 --batch-size 16 --dim 16
    --depth 2 --heads 2 --decoder-dim 16 --decoder-heads 2 --workers 0 --log-every 1
    --warmup-epochs 0 --device cpu
"""
VARIANTS = {
    "cross": "--decoder cross --predict 0.5",
    "fused": "--decoder cross --decoder-fusion",
    "masks": "--masks 3",
    "growing": "--progressive 4:0.25 6:0.5",
    "all": "--decoder cross --decoder-fusion --predict 0.5 --masks 2 --repeats 2"
    " --progressive 4:0.4",
    "tokens": "--mask-tokens encoder --decoder linear --registers 1 --mask unit --mask-unit 2",
    "options": "--decoder-fusion --mask multiblock --mask-ratio-end 0.5 --uniformity 0.01"
    " --augment jitter",
}


def words(out: Path, variant: str) -> list[str]:
    return [*SMALL.split(), *VARIANTS[variant].split(), "--out", str(out)]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{STEPS:08d}" / "weights.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run of each variant, made once."""
    made: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant) / "run"
            assert main(words(made[variant], variant)) == 0
        return made[variant]

    return get


@pytest.mark.parametrize("stop", [2, 7])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(
    whole, variant, stop, tmp_path, monkeypatch
):
    """Cut off before its first checkpoint, and after; the images grow at steps 3, 5 and 6."""
    step, out = loop.training_step, tmp_path / "run"

    def cut(state, *rest):
        if state.step == stop:
            raise KeyboardInterrupt
        return step(state, *rest)

    monkeypatch.setattr(loop, "training_step", cut)
    assert main(words(out, variant)) == 130
    monkeypatch.undo()
    assert main(words(out, variant)) == 0
    assert losses(out) == losses(whole(variant))
    want, found = weights(whole(variant)), weights(out)
    assert want.keys() == found.keys()
    assert all(torch.equal(want[name], found[name]) for name in want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_it_leaves_behind(whole, variant, tmp_path, capsys):
    out = whole(variant)
    encoder = openmae.load(out / "encoder.safetensors")
    assert encoder.image_size == (8, 8)
    model = openmae.load(out)
    assert isinstance(model, MAE)
    results = json.loads((out / "results.json").read_text())
    assert results["images_seen"] == STEPS * 16, "images and not masks"
    picture = str(tmp_path / "picture.png")
    assert main(["reconstruct", str(out), "digits", "-o", picture]) == 0
    assert Path(picture).stat().st_size > 1000
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert ("cross-attention, 2x16" in said) is ("cross" in VARIANTS[variant])


def test_what_it_says(whole, tmp_path, capsys):
    assert main([*words(tmp_path / "run", "all"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2x16 cross-attention over fused blocks, predicts 50% of the hidden, 2 masks" in said
    assert "progressive: 4x4 px from step 0, 8x8 px from step 5" in said
    assert main([*SMALL.split(), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "decoder 2x16, " in said
    assert "progressive" not in said


@pytest.mark.parametrize("form", ["official", "hf"])
def test_no_foreign_form_has_this_decoder(whole, form, tmp_path, capsys):
    out = tmp_path / ("out.pth" if form == "official" else "out")
    assert main(["convert", str(whole("cross")), "--to", form, "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert "has a decoder with self-attention, unlike this model" in said
    assert "--to openmae" in said
    assert (
        main(["convert", str(whole("cross")), "--to", "openmae", "-o", f"{out}.safetensors"]) == 0
    )


def test_a_longer_run_grows_over_its_new_length(whole):
    saved = yaml.safe_load((whole("growing") / "config.yaml").read_text())
    saved = {k: v for k, v in saved.items() if k in PretrainConfig.model_fields}
    config = PretrainConfig.model_validate(saved)
    assert stage_starts(config, 12) == [(0, (4, 4)), (3, (6, 6)), (6, (8, 8))]
    assert stage_starts(config, 100) == [(0, (4, 4)), (25, (6, 6)), (50, (8, 8))]


def test_the_share_that_is_predicted_may_be_changed(whole, tmp_path, capsys):
    out = whole("cross")
    other = {"0.5": "0.25", str(STEPS): "20"}
    changed = [other.get(word, word) for word in words(out, "cross")]
    changed += ["--dry-run", "--allow-change", "steps"]
    assert main(changed) == 2
    assert "--predict 0.5 -> 0.25 differs from the run" in capsys.readouterr().err
    assert main([*changed[:-1], "steps,predict"]) == 0
    assert "would continue at step 12 of 20" in capsys.readouterr().out


# Settings.

GOOD = {"data": "x", "image_size": 224, "patch_size": 16}
REFUSED = {
    "predict": ({"predict": 0.5}, "predict 0.5: mask tokens of decoder self need each other"),
    "predict 0": ({"predict": 0, "decoder": "cross"}, "predict 0: should be greater than 0"),
    "fusion": (
        {"decoder_fusion": True, "mask_tokens": "encoder"},
        "decoder_fusion True needs mask-tokens decoder",
    ),
    "linear": ({"decoder": "linear"}, "decoder linear reads one token a patch"),
    "tokens": ({"decoder": "cross", "mask_tokens": "encoder"}, "decoder cross has its own"),
    "end": ({"mask": "grid", "mask_ratio_end": 0.8}, "mask grid has one ratio"),
    "uniformity": ({"uniformity": 0.01, "micro_batch": 8}, "couples the images of a batch"),
    "masks": ({"masks": 2, "mask": "grid"}, "masks 2: mask grid is the same every time"),
    "masks 0": ({"masks": 0}, "masks 0: should be greater than or equal to 1"),
    "not growing": ({"progressive": "224:0.5"}, "sizes must grow up to 224 224"),
    "shrinking": ({"progressive": ["160:0.3", "128:0.6"]}, "sizes must grow"),
    "shares": ({"progressive": ["128:0.5", "160:0.5"]}, "sizes must grow"),
    "share 0": ({"progressive": "128:0.0"}, "sizes must grow"),
    "patch": ({"progressive": "120:0.5"}, "120 is not a multiple of patch 16"),
    "init": ({"progressive": "128:0.5", "init": "x"}, "Leave init or progressive out"),
    "percent": ({"progressive": "128:50"}, "should be SIZE:SHARE, such as 128:0.5"),
    "word": ({"progressive": "128"}, "should be SIZE:SHARE"),
    "decoder": ({"decoder": "cros"}, "Did you mean cross?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    given, words = REFUSED[case]
    with pytest.raises(UsageError) as found:
        resolve(PretrainConfig, GOOD | given)
    assert words in str(found.value)
    assert len(str(found.value).splitlines()) <= 4


def test_a_stage():
    assert parse_stage("128:0.5") == ((128, 128), 0.5)
    assert parse_stage("96x128:.25") == ((96, 128), 0.25)
    config = resolve(PretrainConfig, GOOD | {"image_size": (96, 128), "progressive": "48x64:0.5"})
    assert config.stages == [((48, 64), 0.5)]


def test_another_decoder_drops_what_only_the_recipes_had():
    recipe = {
        "decoder": "cross",
        "predict": 0.33,
        "decoder_fusion": True,
        "progressive": ["128:0.5"],
    }
    config = resolve(PretrainConfig, GOOD | {"decoder": "self", "image_size": 96}, recipe)
    assert (config.predict, config.decoder_fusion, config.progressive) == (1.0, False, ())
    assert resolve(PretrainConfig, {"data": "x", "decoder": "cross"}, recipe).predict == 0.33
