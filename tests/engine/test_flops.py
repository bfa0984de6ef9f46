"""The account of operations: against the published numbers, and against torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_options import TINY_MAE
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openmae.engine.flops import ClassifierSize, MAESize, Stack
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.tasks.account import size_of

DECODER = Stack(512, 8, 2048)
SIZES = {
    "S/16": MAESize(Stack(384, 12, 1536), DECODER, 196, 49, 1, 768, 768),
    "B/16": MAESize(Stack(768, 12, 3072), DECODER, 196, 49, 1, 768, 768),
    "L/16": MAESize(Stack(1024, 24, 4096), DECODER, 196, 49, 1, 768, 768),
    "H/14": MAESize(Stack(1280, 32, 5120), DECODER, 256, 64, 1, 588, 588),
    "Pixio-H/16, 256 px": MAESize(
        Stack(1280, 32, 5120), Stack(512, 32, 2048), 256, 64, 8, 768, 768
    ),
}
FORWARD = {
    "S/16": (0.71, 1.42, 0.05, 3.31, 6.61, 0.64, 0.12, 0.02, 0.16),
    "B/16": (2.83, 5.66, 0.09, 3.31, 6.61, 0.64, 0.23, 0.04, 0.16),
    "L/16": (10.07, 20.13, 0.25, 3.31, 6.61, 0.64, 0.31, 0.05, 0.16),
    "H/14": (27.26, 54.53, 0.69, 4.31, 8.62, 1.08, 0.39, 0.09, 0.16),
    "Pixio-H/16, 256 px": (30.2, 60.4, 0.85, 17.7, 35.4, 4.57, 0.50, 0.09, 0.21),
}
"""GFLOP of an image: encoder linear, MLP, attention; decoder the same; patch, decoder embedding,
head.
"""
TRAIN = {"S/16": 38.9, "B/16": 58.5, "L/16": 124.2, "H/14": 291.0}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_formulation(name):
    parts = SIZES[name].forward()
    for value, expected in zip(parts.values(), FORWARD[name], strict=True):
        decimals = 1 if expected >= 15 and name.startswith("Pixio") else 2
        assert round(value / 1e9, decimals) == pytest.approx(expected, abs=0.011)
    if name in TRAIN:
        assert SIZES[name].train() / 1e9 == pytest.approx(TRAIN[name], abs=0.06)


def test_dense_vit_base():
    """timm says 17.58 GMAC; a head of 1,000 classes is in it."""
    size = ClassifierSize(Stack(768, 12, 3072), 196, 1, 768, 1000)
    assert sum(size.forward().values()) / 2e9 == pytest.approx(17.58, abs=0.02)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_huge_patch14_224"])
def test_sizes_are_read_from_the_method(name):
    with torch.device("meta"):
        method = MAE(name)
    assert size_of(method) == SIZES[{"vit_base_patch16_224": "B/16"}.get(name, "H/14")]


def _counted(run) -> float:
    """Operations that run; torch counts attention only where it is two products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


VARIANTS = {
    "as it is": {},
    "one channel, not square patches": {"in_chans": 1, "patch_size": (8, 4)},
    "registers": {"encoder_args": {**TINY_MAE["encoder_args"], "reg_tokens": 4}},
    "no class token": {
        "encoder_args": {**TINY_MAE["encoder_args"], "class_token": False, "global_pool": "avg"}
    },
    "half hidden, a deep decoder": {"mask_ratio": 0.5, "decoder_depth": 3, "decoder_dim": 48},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_against_the_counter_of_torch(name):
    """Forward to the operation, backward but for the rule of twice the forward pass."""
    method = MAE(**{**TINY_MAE, **VARIANTS[name]})
    size = size_of(method)
    images = torch.randn(2, method.encoder.in_chans, 32, 48)
    with torch.no_grad():
        forward = _counted(lambda: method(images, full=True))
    assert forward == 2 * sum(size.forward().values())
    both = _counted(lambda: method(images, full=True)["loss"].backward())
    assert both == pytest.approx(2 * size.train(), rel=0.02)


def _count(method: MAE, images: torch.Tensor, backward: bool) -> float:
    if backward:
        return _counted(lambda: method(images, full=True)["loss"].backward())
    with torch.no_grad():
        return _counted(lambda: method(images, full=True))


@pytest.mark.parametrize("predict", [1.0, 0.5])
def test_a_cross_attention_decoder_against_the_counter(predict):
    """The plain formulation decodes every patch; the account, those that are predicted."""
    method = MAE(**TINY_MAE, decoder="cross", predict=predict)
    size, images = size_of(method), torch.randn(2, 3, 32, 48)
    assert size.cross == round(18 * predict)
    everything = replace(size, cross=size.patches)
    assert _count(method, images, False) == 2 * sum(everything.forward().values())
    assert _count(method, images, True) == pytest.approx(2 * everything.train(), rel=0.03)


@pytest.mark.parametrize(
    ("depth", "predict", "expected"),
    [(8, 1.0, (1.24, 1.10, 1.05)), (8, 0.5, (1.56, 1.20, 1.10)), (12, 1 / 3, (1.53, 1.19, 1.09))],
)
def test_the_published_savings_of_cross_attention(depth, predict, expected):
    for name, ratio in zip(("B/16", "L/16", "H/14"), expected, strict=True):
        size = SIZES[name]
        count = round((size.patches - size.kept) * predict)
        cheaper = replace(size, decoder=Stack(512, depth, 2048), cross=count)
        assert size.train() / cheaper.train() == pytest.approx(
            ratio, abs=0.02
        )  # the page is rounded


def test_several_masks_of_an_image():
    method = MAE(**TINY_MAE, masks=3).train()
    size, images = size_of(method), torch.randn(2, 3, 32, 48)
    assert size.masks == 3
    assert _count(method, images, False) == 2 * sum(size.forward().values())
    assert _count(method, images, True) == pytest.approx(2 * size.train(), rel=0.02)


@pytest.mark.parametrize("blocks", [None, 0, 0.5, 1, 1.5, 2])
def test_a_classifier_against_the_counter_of_torch(blocks):
    keys = ("encoder", "image_size", "patch_size", "encoder_args")
    sizes = {k: TINY_MAE[k] for k in keys}
    method = Classifier(classes=("a", "b", "c"), blocks=blocks, **sizes)
    size = size_of(method)
    batch = {"image": torch.randn(2, 3, 32, 48), "label": torch.tensor([0, 1])}
    with torch.no_grad():
        forward = _counted(lambda: method(batch))
    assert forward == 2 * sum(size.forward().values())
    both = _counted(lambda: method(batch)["loss"].backward())
    assert both == pytest.approx(2 * size.train(), rel=0.06)


def test_pruning_leaves_the_count_as_it_is_and_runs_less():
    method = MAE(**TINY_MAE)
    images = torch.randn(2, 3, 32, 48)
    ours = _counted(lambda: method(images)["loss"].backward())
    assert 0.5 < ours / (2 * size_of(method).train()) < 1
