"""Sliding windows: where they lie, what covers what, and the views that are averaged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.models.sliding import averaged, slide, starts


def pointwise(windows: Tensor) -> Tensor:
    """Logits that depend on the pixel alone: any tiling gives the same."""
    return torch.stack([windows[:, 0], windows[:, 1] * 2, windows.sum(1)], dim=1)


def extent(windows: Tensor) -> Tensor:
    """Logits that tell the window: its mean."""
    mean = windows.mean(dim=(1, 2, 3), keepdim=True)
    return mean.expand(-1, 2, *windows.shape[-2:])


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 6]),
        (4, 4, 1, [0]),
        (3, 4, 2, [0]),
        (9, 4, 9, [0, 5]),
    ],
)
def test_windows_cover_everything(length, window, stride, expected):
    assert starts(length, window, stride) == expected


@pytest.mark.parametrize("stride", [(5, 7), (1, 1), (8, 8)])
@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_a_network_of_single_pixels_gives_the_whole(stride, at_a_time):
    image = torch.randn(3, 17, 21)
    found = slide(pointwise, image, (8, 8), stride, at_a_time)
    torch.testing.assert_close(found, pointwise(image[None])[0], atol=1e-6, rtol=1e-6)


def test_a_window_that_covers_the_image_is_the_whole_and_a_larger_one_is_padded():
    image = torch.randn(3, 6, 8)
    assert torch.equal(slide(extent, image, (6, 8), (3, 3)), extent(image[None])[0])
    found = slide(extent, image, (10, 8), (3, 3))
    assert tuple(found.shape) == (2, 6, 8)
    torch.testing.assert_close(found, torch.full((2, 6, 8), float(image.sum() / 240)))


def test_overlaps_are_averaged():
    image = torch.zeros(1, 1, 6)
    image[..., 3:] = 1
    found = slide(extent, image, (1, 4), (1, 2))  # windows 0..3 and 2..5: means 1/4 and 3/4
    expected = torch.tensor([0.25, 0.25, 0.5, 0.5, 0.75, 0.75])
    torch.testing.assert_close(found[0, 0], expected)


def test_views_are_averaged_as_probabilities_and_one_view_is_logits():
    image = torch.randn(3, 6, 8)
    one = averaged(pointwise, image, (6, 8), (6, 8), (3, 4))
    assert torch.equal(one, pointwise(image[None])[0])
    both = averaged(pointwise, image, (6, 8), (6, 8), (3, 4), flip=True)
    torch.testing.assert_close(both, one.softmax(0))  # mirrored and mirrored back
    several = averaged(pointwise, image, (6, 8), (6, 8), (3, 4), scales=(0.5, 1.0))
    assert tuple(several.shape) == (3, 6, 8)
    torch.testing.assert_close(several.sum(0), torch.ones(6, 8))


def test_scores_come_at_the_size_that_is_asked_for():
    found = averaged(pointwise, torch.randn(3, 9, 5), (20, 11), (8, 8), (4, 4))
    assert tuple(found.shape) == (3, 20, 11)
