"""The published recipe of UPerNet on ADE20K, and what the smaller ones have in common with it."""

from __future__ import annotations

import pytest

from openmae.config import resolve, settings
from openmae.config.recipe import read_recipe, shipped
from openmae.config.segment import SegmentConfig
from openmae.engine.optim import absolute_lr

NEEDED = {"model": "x", "data": "y"}
IMAGES = 20_210  # of ADE20K's training part


def recipe(name: str) -> SegmentConfig:
    return resolve(SegmentConfig, NEEDED, read_recipe("segment", name))


@pytest.mark.parametrize(
    ("name", "width", "decay"), [("ade20k-vit-base", 768, 0.65), ("ade20k-vit-large", 1024, 0.75)]
)
def test_ade20k(name, width, decay):
    config = recipe(name)
    assert (config.steps, config.batch_size, config.image_size) == (160_000, 16, 512)
    assert absolute_lr(config.lr, config.batch_size) == pytest.approx(1e-4)
    assert round(config.warmup_epochs * IMAGES / config.batch_size) == 1500
    assert (config.betas, config.weight_decay) == ((0.9, 0.999), 0.05)
    assert (config.head, config.head_dim, config.auxiliary) == ("upernet", width, 0.4)
    assert (config.layer_decay, config.schedule, config.min_lr) == (decay, "poly", 0.0)
    assert (config.short_side, config.scale, config.most) == (512, (0.5, 2.0), 0.75)
    assert config.stride == 341


def test_the_defaults_are_those_of_vit_base():
    plain, config = SegmentConfig(**NEEDED), recipe("ade20k-vit-base")
    other = {"steps", "epochs", "warmup_epochs", "image_size", "short_side", "head_dim", "stride"}
    for name in config.model_fields_set - other:
        assert getattr(plain, name) == getattr(config, name), name
    assert plain.epochs * IMAGES / plain.batch_size == pytest.approx(160_000, rel=0.01)


def test_there_are_small_ones():
    assert shipped("segment").keys() == {"ade20k-vit-base", "ade20k-vit-large", "small", "tiny"}
    assert settings("segment evaluate").__name__ == "SegmentEvaluateConfig"
