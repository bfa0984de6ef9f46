"""What `MAE` refuses, and in which words."""

from __future__ import annotations

import pytest
import torch
from tiny_options import TINY_MAE

from openmae.errors import UsageError
from openmae.methods import MAE


def tiny(**arguments) -> MAE:
    return MAE(**(TINY_MAE | arguments))


def test_unknown_encoder_names_the_closest():
    with pytest.raises(UsageError, match="vit_base_patch16_224") as error:
        MAE(encoder="vit_bas_patch16_224")
    first = str(error.value).splitlines()[0]
    assert first.startswith("vit_bas_patch16_224 is not a model that timm knows. Closest: vit_base")
    assert first.count(",") == 4  # five names


@pytest.mark.parametrize("word", ["norm_pixel", "normpixels"])
def test_unknown_target(word):
    with pytest.raises(UsageError, match=r"Did you mean norm_pixels\?"):
        tiny(target=word)
    model = tiny()
    with pytest.raises(UsageError, match=r"should be one of pixels, norm_pixels"):
        model.target = word
    assert model.target == "norm_pixels"


def test_unknown_target_far_from_all():
    with pytest.raises(UsageError, match="target 'xyz': should be one of") as error:
        tiny(target="xyz")
    assert "Did you mean" not in str(error.value)


def test_unknown_mask():
    with pytest.raises(UsageError, match="mask 'blocks': should be one of random, block, grid"):
        tiny(mask="blocks")


@pytest.mark.parametrize("size", [30, (32, 44), (36, 48)])
def test_image_size_must_divide_by_the_patch(size):
    with pytest.raises(UsageError, match="8"):
        tiny(image_size=size)


@pytest.mark.parametrize("ratio", [0.97, 1.0, 1.5, 0.0, -1.0])
def test_mask_ratio_that_keeps_or_hides_nothing(ratio):
    with pytest.raises(UsageError, match="at least one must be kept and one hidden"):
        tiny(mask_ratio=ratio)
    with pytest.raises(ValueError, match="at least one must be kept and one hidden"):
        tiny()(torch.zeros(2, 3, 32, 48), mask_ratio=ratio)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mask": "grid", "mask_ratio": 0.5},
        {"mask": "grid", "mask_ratio": 1.0},
        {"mask": "grid", "image_size": (40, 48)},
        {"decoder_dim": 30},
        {"decoder_heads": 5},
        {"encoder_args": {"embed_dim": 30, "depth": 1, "num_heads": 2}},
        {"encoder_args": {"embed_dims": 32}},
        {"in_chans": 0},
        {"encoder": "eva02_tiny_patch14_224"},
        {"encoder": "resnet18"},
        {"encoder": "deit_tiny_distilled_patch16_224", "encoder_args": {}},
    ],
    ids=lambda a: "-".join(f"{k}={v}" for k, v in a.items()),
)
def test_what_cannot_be_built_is_a_usage_error(arguments):
    with pytest.raises(UsageError):
        tiny(**arguments)
