"""Augmentations of Table 1e: each is a function of the position, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.data.augmented import STRENGTH, Augmented
from openmae.data.growing import GrowingTransform
from openmae.data.transforms import EvalTransform, TrainTransform
from openmae.data.views import jittered

SIZE = (24, 32)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
KINDS = ("none", "fixed", "crop", "jitter")


def made(kind: str, position: int = 0, rows: int = 8, image=IMAGE, **more) -> torch.Tensor:
    transform = Augmented(SIZE, seed=3, augment=kind, **more)
    return torch.stack([transform(image, d) for d in transform.draws(position, rows)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_the_position(kind):
    whole = made(kind)
    assert whole.shape == (8, 3, *SIZE)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole[5:7], made(kind, position=5, rows=2))
    assert (len(whole.flatten(1).unique(dim=0)) == 1) == (kind == "none")


def test_crop_is_the_papers_own_to_the_bit():
    own = TrainTransform(SIZE, seed=3)
    want = torch.stack([own(IMAGE, d) for d in own.draws(0, 8)])
    assert torch.equal(made("crop"), want)


def test_none_is_the_central_part_without_a_flip():
    assert torch.equal(made("none")[0], EvalTransform(SIZE)(IMAGE))


def test_jitter_changes_the_colours_of_the_same_crop():
    transform, plain = Augmented(SIZE, seed=3, augment="jitter"), made("crop")
    draws = transform.draws(0, 8)
    for row, crop, found in zip(draws, plain, made("jitter"), strict=True):
        want = jittered(crop / 255, STRENGTH, row[-5:-1].tolist(), row[-1])
        assert (found.float() - want * 255).abs().max() <= 0.5 + 1e-3
        assert not torch.equal(found, crop)


def test_a_fixed_crop_has_one_scale():
    """Of a picture of its own coordinates every crop spans as many of them."""
    rows = np.broadcast_to(np.linspace(0, 250, 48)[:, None, None], (48, 64, 1)).astype(np.uint8)
    found = made("fixed", rows=32, image=rows).float()
    spans = found[:, 0, -1, 0] - found[:, 0, 0, 0]
    assert spans.max() - spans.min() <= 6
    assert len(found[:, 0, 0, 0].unique()) > 3
    assert spans.mean() == pytest.approx(0.875 * 250 * 47 / 48, abs=12)


@pytest.mark.parametrize("kind", ["fixed", "jitter"])
@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(kind, channels):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, channels), dtype=np.uint8)
    assert made(kind, image=image).shape == (8, channels, *SIZE)


def test_normalised_floats_are_jittered_on_their_unit_scale():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    unit = IMAGE.astype(np.float32) / 255
    scaled = ((unit - np.float32(mean)) / np.float32(std)).astype(np.float32)
    found = made("jitter", image=scaled, mean=mean, std=std)
    back = found * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert (back - made("jitter").float() / 255).abs().mean() < 0.02


def test_images_that_grow():
    own = Augmented(SIZE, seed=3, augment="jitter")
    growing = GrowingTransform(own, [(0, (12, 16)), (2, SIZE)], 4)
    shapes = [growing(IMAGE, d).shape[1:] for d in growing.draws(0, 12)]
    assert shapes[0] == (12, 16)
    assert shapes[-1] == SIZE
