"""The recipes against the paper's Tables 8, 9 and 11 and the official FINETUNE page, typed anew."""

from __future__ import annotations

import shlex

import pytest

from openmae.config import TASKS, settings
from openmae.config.base import resolve
from openmae.config.recipe import about, read_recipe, shipped

COMMON = {"batch_size": 1024, "warmup_epochs": 5, "weight_decay": 0.05, "betas": (0.9, 0.999),
          "randaug": "rand-m9-mstd0.5-inc1", "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
          "pool": "mean", "random_weights": False, "ema": None, "clip": None}  # fmt: skip
PAPER = COMMON | {"lr": 1e-3, "layer_decay": 0.75, "min_lr": 0.0, "erasing": 0.0}
OFFICIAL = COMMON | {"erasing": 0.25, "min_lr": 2.5e-7}
SCRATCH = COMMON | {"batch_size": 4096, "lr": 1e-4, "weight_decay": 0.3, "betas": (0.9, 0.95),
                    "warmup_epochs": 20, "layer_decay": 1.0, "ema": 0.9999,
                    "random_weights": True}  # fmt: skip
PRETRAIN = {"batch_size": 4096, "lr": 1.5e-4, "weight_decay": 0.05, "betas": (0.9, 0.95),
            "warmup_epochs": 40, "mask_ratio": 0.75, "mask": "random", "decoder_dim": 512,
            "decoder_depth": 8, "crop": 0.2, "flip": True, "clip": None}  # fmt: skip
TABLE = {
    ("pretrain", "vit-base-paper"): PRETRAIN | {"epochs": 1600, "target": "norm_pixels"},
    ("pretrain", "vit-large-paper"): PRETRAIN | {"epochs": 1600, "target": "norm_pixels"},
    ("pretrain", "vit-huge-paper"): PRETRAIN | {"epochs": 1600, "target": "norm_pixels"},
    ("finetune", "vit-base-paper"): PAPER | {"epochs": 100, "drop_path": 0.1},
    ("finetune", "vit-large-paper"): PAPER | {"epochs": 50, "drop_path": 0.1},
    ("finetune", "vit-huge-paper"): PAPER | {"epochs": 50, "drop_path": 0.2},
    ("finetune", "vit-huge-448-paper"): PAPER | {"epochs": 50, "image_size": 448},
    ("finetune", "vit-base-official"): OFFICIAL
    | {"epochs": 100, "lr": 5e-4, "layer_decay": 0.65, "drop_path": 0.1},
    ("finetune", "vit-large-official"): OFFICIAL
    | {"epochs": 50, "lr": 1e-3, "layer_decay": 0.75, "drop_path": 0.2},
    ("finetune", "vit-huge-official"): OFFICIAL
    | {"epochs": 50, "lr": 1e-3, "layer_decay": 0.75, "drop_path": 0.3},
    ("finetune", "scratch-vit-base-paper"): SCRATCH | {"epochs": 300, "drop_path": 0.1},
    ("finetune", "scratch-vit-large-paper"): SCRATCH | {"epochs": 200, "drop_path": 0.2},
    ("finetune", "scratch-vit-huge-paper"): SCRATCH | {"epochs": 200, "drop_path": 0.2},
    **{
        ("probe", f"vit-{size}-paper"): {
            "protocol": "paper",
            "pool": "cls",
            "epochs": 90,
            "warmup_epochs": 10,
            "lr": (0.1,),
            "probe_batch": 16384,
            "crops": 90,
        }
        for size in ("base", "large", "huge")
    },
    ("finetune", "vit-large-partial-paper"): PAPER | {"blocks": 4},
}
EXPECTED = {
    "vit-base-paper": "83.6", "vit-large-paper": "85.9", "vit-huge-paper": "86.9",
    "vit-huge-448-paper": "87.8", "vit-base-official": "83.57", "vit-large-official": "85.87",
    "vit-huge-official": "86.928", "scratch-vit-base-paper": "82.3",
    "scratch-vit-large-paper": "82.6", "scratch-vit-huge-paper": "83.1",
    "vit-large-partial-paper": "84.2",
}  # fmt: skip
GIVEN = {
    "pretrain": {"data": "x"},
    "finetune": {"model": "x", "data": "x"},
    "probe": {"model": "x", "data": "x"},
}
ALL = [(task, name) for task in GIVEN for name in shipped(task)]


@pytest.mark.parametrize(("task", "name"), TABLE)
def test_values_are_the_published_ones(task, name):
    found = resolve(settings(task), GIVEN[task], read_recipe(task, name))
    assert {key: getattr(found, key) for key in TABLE[task, name]} == TABLE[task, name]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_expected_number_is_stated(name):
    assert EXPECTED[name] in about("finetune", name)["expected"]


@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_recipe_says_what_it_is_and_its_command_is_right(task, name):
    told = about(task, name)
    assert {"paper", "command", "cost", "expected"} <= told.keys()
    words = shlex.split(told["command"])
    assert words[:2] == ["openmae", task]
    assert words[words.index("--recipe") + 1] == name
    fields = settings(task).model_fields
    options = [w.removeprefix("--").replace("-", "_") for w in words if w.startswith("--")]
    assert [o for o in options if o != "recipe" and o not in fields] == []
    assert task in TASKS


def test_defaults_are_table_9():
    found = resolve(settings("finetune"), GIVEN["finetune"])
    expected = TABLE["finetune", "vit-base-paper"]
    assert {key: getattr(found, key) for key in expected} == expected
