"""Pixel targets against numpy: unbiased variance plus 1e-6, over all values of a patch jointly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.models.patches import patchify
from openmae.targets import TARGETS
from openmae.targets.pixels import NormPixels, Pixels, patch_statistics


def patches(batch: int = 2, masked: int = 5, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(batch, masked, 1, dtype=torch.float64, generator=generator) * 3
    noise = torch.randn(batch, masked, width, dtype=torch.float64, generator=generator)
    return 2 + scale * noise


PIXELS = {"pixels": Pixels, "norm_pixels": NormPixels}


def aim(name: str) -> Pixels:
    return PIXELS[name]((4, 4), 3)


def values_of(target: Pixels, x: torch.Tensor) -> torch.Tensor:
    return target.values(x, torch.empty(0), torch.empty(0))


@pytest.mark.parametrize("width", [48, 16, 2])
def test_norm_pixels_against_numpy(width):
    x = patches(width=width)
    a = x.numpy()
    want = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, ddof=1, keepdims=True) + 1e-6)
    values = values_of(aim("norm_pixels"), x)
    np.testing.assert_allclose(values.numpy(), want, rtol=0, atol=1e-13)
    biased = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, ddof=0, keepdims=True) + 1e-6)
    assert np.abs(values.numpy() - biased).max() > 1e-3  # the test tells them apart


def test_norm_pixels_epsilon():
    x = 1e-3 * patches()  # a variance near 1e-6: here the epsilon decides
    a = x.numpy()
    want = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(values_of(aim("norm_pixels"), x).numpy(), want, rtol=0, atol=1e-12)
    assert np.abs(want).max() > 0.5


def test_norm_pixels_joins_the_channels():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    images[:, 0], images[:, 1], images[:, 2] = 1, 2, 6  # flat in each channel, not over all three
    values = values_of(aim("norm_pixels"), patchify(images, (4, 4))).unflatten(-1, (16, 3))
    raw = np.repeat([1.0, 2.0, 6.0], 16)
    want = (np.array([1.0, 2.0, 6.0]) - 3) / np.sqrt(raw.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(values[0, 0].numpy(), np.tile(want, (16, 1)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.1179, 1e4])
def test_constant_patches_stay_finite(value, dtype):
    x = torch.full((2, 3, 48), value, dtype=dtype, requires_grad=True)
    values = values_of(aim("norm_pixels"), x)
    # In float32 the mean of 48 equal numbers may be off by a rounding; it must not become noise.
    assert values.isfinite().all()
    assert values.abs().max() <= 1e-3 * max(1, abs(value))
    values.square().sum().backward()
    assert x.grad.isfinite().all()


def test_patch_of_one_value():
    x = torch.tensor([[[3.0], [-1.0]]])
    mean, variance = patch_statistics(x)
    assert torch.equal(mean, x)
    assert not variance.any()
    assert torch.equal(values_of(aim("norm_pixels"), x), torch.zeros_like(x))


def test_patch_statistics_against_numpy():
    x = patches()
    mean, variance = patch_statistics(x)
    assert mean.shape == variance.shape == (2, 5, 1)
    np.testing.assert_allclose(mean[..., 0].numpy(), x.numpy().mean(-1), rtol=1e-14)
    np.testing.assert_allclose(variance[..., 0].numpy(), x.numpy().var(-1, ddof=1), rtol=1e-13)


def test_pixels_are_the_pixels():
    x = patches()
    assert torch.equal(values_of(aim("pixels"), x), x)


@pytest.mark.parametrize("name", sorted(PIXELS))
def test_loss_is_the_mean_square_of_a_patch(name):
    target = aim(name)
    values = values_of(target, patches())
    pred = torch.randn(
        values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    loss = target.loss(pred, values)
    assert loss.shape == (2, 5)
    want = ((pred.numpy() - values.numpy()) ** 2).mean(-1)
    np.testing.assert_allclose(loss.numpy(), want, rtol=1e-13)


@pytest.mark.parametrize("name", sorted(PIXELS))
def test_loss_of_half_precision_predictions_is_in_single(name):
    target = aim(name)
    values = values_of(target, patches().float())
    pred = torch.full_like(values, 0.1).bfloat16()
    loss = target.loss(pred, values)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, target.loss(pred.float(), values), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(PIXELS))
@pytest.mark.parametrize(("patch", "chans", "width"), [((16, 16), 3, 768), ((4, 8), 5, 160)])
def test_width(name, patch, chans, width):
    assert PIXELS[name](patch, chans).width == width


def test_default_targets():
    assert set(TARGETS) >= {"pixels", "norm_pixels"}
    assert TARGETS["pixels"] is Pixels
    assert TARGETS["norm_pixels"] is NormPixels
