"""The settings: defaults of the paper, a class for each, precedence, and what is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from openmae.cli import PANELS, main
from openmae.config import TASKS, resolve, settings
from openmae.config.base import extra_of
from openmae.config.pretrain import PretrainConfig
from openmae.config.training import pair, seconds
from openmae.errors import UsageError

TABLE_8 = {
    "betas": (0.9, 0.95),
    "lr": 1.5e-4,
    "weight_decay": 0.05,
    "batch_size": 4096,
    "warmup_epochs": 40,
    "epochs": 800,  # of the ablations
    "min_lr": 0,
    "crop": 0.2,  # random resized crop and a flip, nothing else
    "flip": True,
    "clip": None,
    "ema": None,
}
SECTION_4 = {
    "mask": "random",
    "mask_ratio": 0.75,
    "decoder_dim": 512,
    "decoder_depth": 8,
    "decoder_heads": 16,
    "image_size": 224,
    "channels": 3,
    "target": "norm_pixels",
}
FIELDS = [(task, name) for task in TASKS for name in settings(task).model_fields]


def pretrain(base=None, **given) -> PretrainConfig:
    return resolve(PretrainConfig, {"data": "x"} | given, base)


@pytest.mark.parametrize(("name", "value"), [*TABLE_8.items(), *SECTION_4.items()])
def test_defaults_are_the_papers(name, value):
    assert getattr(pretrain(), name) == value


# Every field.


@pytest.mark.parametrize(("task", "name"), FIELDS)
def test_every_field_is_described(task, name):
    field, extra = settings(task).model_fields[name], extra_of(settings(task), name)
    assert extra["change"] in ("free", "allow", "fixed")
    assert extra["panel"] in PANELS
    assert field.description
    assert 5 <= len(field.description) <= 90
    assert not field.description.endswith(".")


@pytest.mark.parametrize("name", ["dim", "image_size", "patch_size", "channels", "seed", "init"])
def test_what_can_never_change(name):
    assert extra_of(PretrainConfig, name)["change"] == "fixed"


# Precedence.


def test_precedence():
    base = {"lr": 2e-3, "batch_size": 128}
    config = pretrain(base, batch_size="64")
    assert (config.weight_decay, config.lr, config.batch_size) == (0.05, 2e-3, 64)
    assert config.model_fields_set == {"data", "lr", "batch_size"}


def test_epochs_and_steps_replace_each_other():
    assert (pretrain({"steps": 10}, epochs=3).epochs, pretrain({"steps": 10}, epochs=3).steps) == (
        3,
        None,
    )
    assert pretrain({"epochs": 5}, steps=7).steps == 7
    assert "epochs" not in pretrain({"epochs": 5}, steps=7).model_fields_set
    assert pretrain({"epochs": 5}, lr=1.0).epochs == 5


def test_epochs_and_steps_together_are_refused():
    with pytest.raises(UsageError, match=r"^epochs and steps replace each other: give one$"):
        pretrain(epochs=3, steps=4)
    assert pretrain(epochs=None, steps=4).steps == 4
    assert pretrain(epochs="none", steps="4").epochs is None


def test_over():
    typed = pretrain(batch_size=32, steps=9)
    config = typed.over({"batch_size": 128, "lr": 2e-3, "epochs": 3})
    assert (config.batch_size, config.lr, config.steps) == (32, 2e-3, 9)
    assert config.model_fields_set == {"data", "batch_size", "steps", "lr"}


def test_frozen_and_closed():
    with pytest.raises(UsageError, match=r"^epoch is not a setting of pretrain\. Did you mean ep"):
        pretrain(epoch=3)
    with pytest.raises(ValueError, match="frozen"):
        pretrain().lr = 3.0


# Values.


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"image_size": "224"}, "image_size", 224),
        ({"image_size": ["224"]}, "image_size", 224),
        ({"image_size": ["224", "320"]}, "image_size", (224, 320)),
        ({"mean": ["0.5"], "channels": 1}, "mean", (0.5,)),
        ({"clip": "none"}, "clip", None),
        ({"lr": "1e-4"}, "lr", 1e-4),
        ({"flip": False}, "flip", False),
    ],
)
def test_words_become_values(given, name, value):
    assert getattr(pretrain(**given), name) == value


@pytest.mark.parametrize("name", ["seed", "steps", "lr", "batch_size"])
def test_true_is_not_a_number(name):
    with pytest.raises(UsageError, match=rf"^{name}: true/false is not a value here$"):
        pretrain(**{name: True})


def test_patch_comes_from_the_name():
    assert pretrain().patch == (16, 16)
    assert pretrain(model="vit_huge_patch14_224").patch == (14, 14)
    assert pretrain(patch_size=["8", "4"]).patch == (8, 4)
    assert pretrain(model="vit_of_mine").patch is None
    assert pair(7) == pair((7, 7)) == (7, 7)


@pytest.mark.parametrize(
    ("text", "want"),
    [("45s", 45), ("90m", 5400), ("1h30m", 5400), ("2d", 172800), ("1d 2h 3m 4s", 93784)],
)
def test_durations(text, want):
    assert seconds(text) == want
    assert pretrain(time_limit=text).time_limit == text


@pytest.mark.parametrize("text", ["", "90", "1.5h", "m", "1m1h", "soon", "-5m"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="such as 45s, 90m or 1h30m"):
        seconds(text)
    with pytest.raises(UsageError, match=r"^time_limit .*such as 45s, 90m or 1h30m"):
        pretrain(time_limit=text)


# What is said: the words as typed, the answer, exit code 2.

SAID = {
    "pretrain x --epoch 3": "--epoch is not an option of pretrain. Did you mean --epochs?",
    "pretain x": "pretain: did you mean pretrain?",
    "pretrain x --epochs many": "--epochs many: should be a valid number, unable to parse",
    "pretrain x --mask-ratio 75": "--mask-ratio 75: give a fraction, 0.75? (allowed 0.05-0.95)",
    "pretrain x --mask blok": (
        "--mask blok: should be 'random', 'block', 'grid', 'multiblock' or 'unit'."
        " Did you mean block?"
    ),
    "pretrain x --seed 1.5": "--seed 1.5: should be a valid integer",
    "pretrain x --lr nan": "--lr nan: should be a finite number.",
    "pretrain x --mask-ratio 1": "--mask-ratio 1: (allowed 0.05-0.95)",
    "pretrain x --image-size 230": (
        "--image-size 230 is not a multiple of patch 16. Nearest: 224 or 240"
    ),
    "pretrain x --image-size 224 230": "--image-size 224 230 is not a multiple of patch 16.",
    "pretrain x --image-size 0": "--image-size 0 is not a multiple of patch 16.",
    "pretrain x --patch-size 0": "--patch-size 0: must be at least 1",
    "pretrain x --betas 0.9 1": "--betas 0.9 1: each must be at least 0 and less than 1",
    "pretrain x --batch-size 100 --micro-batch 32": (
        "--micro-batch 32 does not divide batch-size 100. Near: 20, 25, 50"
    ),
    "pretrain x --mean 0.5 0.5": "--mean 0.5 0.5: 2 values for 3 channels",
    "pretrain x --std 1 1 0": "--std 1 1 0: must be greater than 0",
    "pretrain x --epochs none": "--epochs None: give epochs or steps",
    "pretrain x --epochs 3 --steps 4": "--epochs and --steps replace each other: give one",
    "pretrain x --recipe laptp": "--recipe laptp: no such recipe of pretrain. Did you mean laptop?",
    "pretrain x --allow-change lrr": "--allow-change lrr: no such setting. Did you mean lr?",
    "pretrain": "DATA is missing",
    "embed m d -o x.txt": "--out x.txt: the name must end in .parquet, .npz or .csv",
}


@pytest.mark.parametrize("words", SAID)
def test_messages(words, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"openmae: {SAID[words]}")
    assert len(err.strip().splitlines()) <= 4


def test_several_mistakes_are_at_most_three_lines():
    with pytest.raises(UsageError) as found:
        pretrain(lr="a", seed="b", channels="c", keep="d")
    assert [line.split()[0] for line in str(found.value).splitlines()] == ["lr", "seed", "keep"]


# Light.

CHECK = """
import sys
import openmae.config, openmae.config.recipe
from openmae.config import TASKS, settings
models = [settings(task) for task in TASKS]
from openmae.cli import main
main(["pretrain", "x", "--epochs", "many"])
heavy = {"torch", "timm", "torchvision", "sklearn", "numpy", "matplotlib"} & sys.modules.keys()
print(len(models), sorted(heavy))
"""


def test_settings_and_usage_errors_import_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"{len(TASKS)} []"


def test_another_model_drops_the_sizes_of_the_recipes_own_and_keeps_the_rest():
    base = {"model": "vit_tiny_patch16_224", "dim": 64, "depth": 4, "patch_size": 8, "epochs": 5}
    same = resolve(PretrainConfig, {"data": "x", "model": "vit_tiny_patch16_224"}, base)
    assert (same.dim, same.depth, same.patch_size) == (64, 4, 8)
    other = resolve(PretrainConfig, {"data": "x", "model": "vit_base_patch16_224"}, base)
    assert (other.dim, other.depth, other.patch_size, other.epochs) == (None, None, 8, 5)
    kept = resolve(PretrainConfig, {"data": "x", "model": "vit_base_patch16_224", "dim": 32}, base)
    assert kept.dim == 32


def test_other_channels_drop_the_mean_and_std_of_a_recipe():
    base = {"mean": [0.5] * 3, "std": [0.2] * 3}
    assert resolve(PretrainConfig, {"data": "x", "channels": 1}, base).mean is None
    assert resolve(PretrainConfig, {"data": "x", "epochs": 3}, base).mean == (0.5, 0.5, 0.5)
