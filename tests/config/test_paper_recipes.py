"""The recipes against the paper's Tables 8 to 11 and the official FINETUNE page, typed anew; and
their commands, through the command line.
"""

from __future__ import annotations

import importlib
import inspect
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import openmae
from openmae.cli import main
from openmae.config import TASKS, settings
from openmae.config.base import Settings, resolve
from openmae.config.recipe import about, read_recipe, shipped
from openmae.engine.lars import LARS

GIVEN = {
    "pretrain": {"data": "x"},
    "finetune": {"model": "x", "data": "x"},
    "probe": {"model": "x", "data": "x"},
}
ALL = [(task, name) for task in GIVEN for name in shipped(task)]
SIZES = ("base", "large", "huge")

# Table 8, and section 3 and Table 1 for what it does not repeat.
TABLE_8 = {
    "lr": 1.5e-4, "weight_decay": 0.05, "betas": (0.9, 0.95), "batch_size": 4096, "min_lr": 0.0,
    "warmup_epochs": 40, "crop": 0.2, "flip": True, "clip": None, "ema": None, "mask": "random",
    "mask_ratio": 0.75, "decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16,
    "image_size": 224, "patch_size": None, "dim": None, "depth": None, "heads": None, "init": None,
    "channels": 3, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "steps": None,
}  # fmt: skip
# What Tables 9 and 11 share, and the FINETUNE page with them.
AUGMENTED = {
    "randaug": "rand-m9-mstd0.5-inc1", "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
    "mix_prob": 1.0, "crop": 0.08, "flip": True, "clip": None, "pool": "mean", "steps": None,
    "class_weights": "none", "multi_label": False, "fraction": None,
}  # fmt: skip
TABLE_9 = AUGMENTED | {
    "lr": 1e-3, "weight_decay": 0.05, "betas": (0.9, 0.999), "layer_decay": 0.75,
    "batch_size": 1024, "warmup_epochs": 5, "min_lr": 0.0, "erasing": 0.0, "ema": None,
    "random_weights": False, "image_size": None, "blocks": None,
}  # fmt: skip
OFFICIAL = TABLE_9 | {"erasing": 0.25, "min_lr": 1e-6 * 256 / 1024}
TABLE_10 = {
    "protocol": "paper", "pool": "cls", "lr": (0.1,), "epochs": 90, "warmup_epochs": 10,
    "probe_batch": 16384, "crops": 90, "layer": None, "norm": True, "l2": None,
}  # fmt: skip
TABLE_11 = AUGMENTED | {
    "lr": 1e-4, "weight_decay": 0.3, "betas": (0.9, 0.95), "layer_decay": 1.0, "batch_size": 4096,
    "warmup_epochs": 20, "min_lr": 0.0, "erasing": 0.0, "ema": 0.9999, "random_weights": True,
    "image_size": None, "blocks": None,
}  # fmt: skip
MODELS = {
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}

PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("pretrain", f"vit-{size}-paper"): TABLE_8
        | {"epochs": 1600, "target": "norm_pixels", "model": MODELS[size]}
        for size in SIZES
    },
    ("pretrain", "vit-large-800-paper"): TABLE_8
    | {"epochs": 800, "target": "pixels", "model": MODELS["large"]},
    ("finetune", "vit-base-paper"): TABLE_9 | {"epochs": 100, "drop_path": 0.1},
    ("finetune", "vit-large-paper"): TABLE_9 | {"epochs": 50, "drop_path": 0.1},
    ("finetune", "vit-huge-paper"): TABLE_9 | {"epochs": 50, "drop_path": 0.2},
    ("finetune", "vit-huge-448-paper"): TABLE_9
    | {"epochs": 50, "drop_path": 0.2, "image_size": 448},
    ("finetune", "vit-large-partial-paper"): TABLE_9
    | {"epochs": 100, "drop_path": 0.1, "blocks": 4},
    ("finetune", "vit-base-official"): OFFICIAL
    | {"epochs": 100, "lr": 5e-4, "layer_decay": 0.65, "drop_path": 0.1},
    ("finetune", "vit-large-official"): OFFICIAL | {"epochs": 50, "drop_path": 0.2},
    ("finetune", "vit-huge-official"): OFFICIAL | {"epochs": 50, "drop_path": 0.3},
    ("finetune", "scratch-vit-base-paper"): TABLE_11 | {"epochs": 300, "drop_path": 0.1},
    ("finetune", "scratch-vit-large-paper"): TABLE_11 | {"epochs": 200, "drop_path": 0.2},
    ("finetune", "scratch-vit-huge-paper"): TABLE_11 | {"epochs": 200, "drop_path": 0.2},
    **{("probe", f"vit-{size}-paper"): TABLE_10 for size in SIZES},
}
# Numbers that `expected` must state, and what `paper` must name.
EXPECTED = {
    ("pretrain", "vit-base-paper"): ("Table 8", "83.6"),
    ("pretrain", "vit-large-paper"): ("Table 8", "85.9"),
    ("pretrain", "vit-huge-paper"): ("Table 8", "86.9"),
    ("pretrain", "vit-large-800-paper"): ("Table 8", "84.9", "73.5"),
    ("finetune", "vit-base-paper"): ("Table 9", "83.6"),
    ("finetune", "vit-large-paper"): ("Table 9", "85.9"),
    ("finetune", "vit-huge-paper"): ("Table 9", "86.9"),
    ("finetune", "vit-huge-448-paper"): ("Table 9", "87.8"),
    ("finetune", "vit-large-partial-paper"): (
        "Figure 9", "79.1/81.0/83.1/84.2/84.4/84.6/84.7/84.9", "73.5",
    ),
    ("finetune", "vit-base-official"): ("FINETUNE.md", "83.57 +- 0.08", "83.664"),
    ("finetune", "vit-large-official"): ("FINETUNE.md", "85.87 +- 0.07", "85.952"),
    ("finetune", "vit-huge-official"): ("FINETUNE.md", "86.928"),
    ("finetune", "scratch-vit-base-paper"): ("Table 11", "82.3", "82.1"),
    ("finetune", "scratch-vit-large-paper"): ("Table 11", "82.6", "81.5"),
    ("finetune", "scratch-vit-huge-paper"): ("Table 11", "83.1", "80.9"),
    ("probe", "vit-base-paper"): ("Table 10", "68.0", "67.8"),
    ("probe", "vit-large-paper"): ("Table 10", "75.8", "76.0"),
    ("probe", "vit-huge-paper"): ("Table 10", "76.6", "77.2"),
}  # fmt: skip


def resolved(task: str, name: str) -> Settings:
    return resolve(settings(task), GIVEN[task], read_recipe(task, name), source=name)


# Values.


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_values_are_the_published_ones(task, name):
    found, expected = resolved(task, name), PUBLISHED[task, name]
    assert {key: getattr(found, key) for key in expected} == expected


def test_every_recipe_of_the_paper_is_compared():
    claims = {(t, n) for t, n in ALL if n.endswith(("-paper", "-official"))}
    assert claims == PUBLISHED.keys() == EXPECTED.keys()


@pytest.mark.parametrize(("task", "name"), PUBLISHED)
def test_a_paper_recipe_leaves_no_published_value_to_a_default(task, name):
    """A default may change one day; a recipe of the paper may not change with it."""
    own = read_recipe(task, name).keys()
    built_in = {"steps", "clip", "ema", "class_weights", "multi_label", "fraction", "image_size"}
    built_in |= {"blocks", "random_weights", "patch_size", "dim", "depth", "heads", "init"}
    built_in |= {"channels", "layer", "norm", "l2"}
    optional = {"min_lr"} if task == "pretrain" else set()
    assert PUBLISHED[task, name].keys() - built_in - optional <= own


@pytest.mark.parametrize(
    ("task", "table"), [("pretrain", TABLE_8), ("finetune", TABLE_9 | {"epochs": 100})]
)
def test_defaults_are_the_papers(task, table):
    found = resolve(settings(task), GIVEN[task])
    told = {key: value for key, value in table.items() if key not in ("mean", "std")}
    assert {key: getattr(found, key) for key in told} == told


def test_the_probes_optimiser_is_that_of_table_10():
    told = {n: p.default for n, p in inspect.signature(LARS).parameters.items()}
    assert (told["momentum"], told["weight_decay"], told["trust"]) == (0.9, 0.0, 0.001)


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads", "patch", "millions"),
    [
        ("base", 12, 768, 12, 16, 86),
        ("large", 24, 1024, 16, 16, 303),
        ("huge", 32, 1280, 16, 14, 631),
    ],
)
def test_sizes_of_the_encoders(size, depth, width, heads, patch, millions):
    config = resolved("pretrain", f"vit-{size}-paper")
    with torch.device("meta"):
        vit = openmae.MAE(encoder=config.model, image_size=config.image_size).encoder.vit
    assert (len(vit.blocks), vit.embed_dim, vit.blocks[0].attn.num_heads) == (depth, width, heads)
    assert vit.patch_embed.patch_size == (patch, patch)
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, abs=0.7)


# What a recipe says of itself.


@pytest.mark.parametrize(("task", "name"), EXPECTED)
def test_the_table_and_the_expected_number_are_stated(task, name):
    table, *numbers = EXPECTED[task, name]
    told = about(task, name)
    assert table in told["paper"]
    assert [n for n in numbers if n not in told["expected"]] == []


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("base", "7 h 11 min on 32 V100"),
        ("large", "8 h 52 min on 32 V100"),
        ("huge", "13 h 9 min on 64 V100"),
    ],
)
def test_published_costs(name, hours):
    assert hours in about("finetune", f"vit-{name}-official")["cost"]


class Stub:
    """In place of a task: keeps what the command line hands over."""

    def run(self, config: Settings, options: Any) -> dict[str, Any]:
        self.config, self.options = config, options
        return {}


@pytest.mark.parametrize(("task", "name"), ALL)
def test_its_command_is_understood(task, name, monkeypatch):
    """The whole command line, up to the task itself."""
    told = about(task, name)
    assert told.keys() - {"losses"} == {"paper", "command", "cost", "expected"}
    assert all(isinstance(text, str) and text for text in told.values())
    words = shlex.split(told["command"])
    assert words[:2] == ["openmae", task]
    assert task in TASKS
    stub, real = Stub(), importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda n, *a: stub if "tasks" in n else real(n, *a)
    )
    assert main(words[1:]) == 0
    assert stub.options.recipe == name
    found, typed = stub.config.model_dump(), resolved(task, name).model_dump()
    differ = {key for key in found if found[key] != typed[key]}
    assert {"data"} <= differ <= {"data", "model", "out"}  # the rest is the recipe's


# Commands, as far as they go without the data and the days.

_TINY = "--dim 16 --depth 4 --heads 2"
_DECODER = "--decoder-dim 16 --decoder-depth 1 --decoder-heads 2"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of eight small images, in train/ and test/."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (48, 56, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_dry_run_with_it(task, name, photos, tmp_path, capsys):
    """Real data and a small encoder in the place of ImageNet and of a pretrained one."""
    tiny = _TINY.split() if task == "pretrain" else []
    if task == "pretrain" and read_recipe(task, name).get("method", "mae") == "mae":
        tiny += _DECODER.split()
    model = [] if task == "pretrain" else ["vit_tiny_patch16_224"]
    data = "digits" if (task, name) == ("pretrain", "digits") else str(photos)
    words = [task, *model, data, "--recipe", name, *tiny, "--out", str(tmp_path / "run")]
    code = main([*words, "--device", "cpu", "--workers", "0", "--dry-run"])
    assert code == 0, capsys.readouterr().err
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
