"""HOG against scikit-image, where it is installed, and against numbers that it once gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.errors import UsageError
from openmae.models.patches import patchify
from openmae.targets.hog import HOG, histograms

FROZEN = (
    0.6763187142892818,
    0.388889828800628,
    0.20023505119716953,
    0.10523775812368509,
    0.09077560270752869,
    0.3986614445368849,
    0.376116916110036,
    0.14816923709336027,
    0.09797662248266226,
)
"""skimage.feature.hog of version 0.26.0 for `wavy()`, channel 1, the cell in row 1, column 2; it
sums in single precision."""


def wavy() -> torch.Tensor:
    """Two images of 3 channels, 16 x 32, with gradients in every direction."""
    y, x = torch.meshgrid(
        torch.arange(16, dtype=torch.float64), torch.arange(32, dtype=torch.float64), indexing="ij"
    )
    planes = [
        torch.sin(0.13 * (k + 1) * x + 0.5 * k) * torch.cos(0.21 * y * (k % 3 + 1)) + 0.01 * x * y
        for k in range(6)
    ]
    return torch.stack(planes).unflatten(0, (2, 3))


def test_against_frozen_values():
    found = histograms(wavy(), 8, 9)
    assert found.shape == (2, 3, 2, 4, 9)
    np.testing.assert_allclose(found[0, 1, 1, 2].numpy(), FROZEN, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("cell", "bins"), [(8, 9), (4, 6), (2, 9)])
def test_against_scikit_image(cell, bins):
    feature = pytest.importorskip("skimage.feature")
    noise = torch.rand(2, 3, 16, 32, dtype=torch.float64, generator=torch.manual_seed(0))
    for images in (wavy(), noise):
        found = histograms(images, cell, bins)
        for i in range(2):
            for c in range(3):
                want = feature.hog(
                    images[i, c].numpy(), bins, (cell, cell), (1, 1), "L2", feature_vector=False
                )
                got = found[i, c].numpy()
                np.testing.assert_allclose(got, want[:, :, 0, 0], rtol=0, atol=1e-6)


def test_values_are_those_of_the_patch():
    target, images = HOG((16, 8), 3), wavy()
    assert target.width == 2 * 1 * 3 * 9
    assert HOG((16, 16), 3).width == 108
    ids = torch.tensor([[3, 0], [1, 2]])
    patches = patchify(images, (16, 8))
    values = target.values(patches[:, :2], images, ids)
    whole = histograms(images, 8, 9)
    for i, row in enumerate(ids.tolist()):
        for j, at in enumerate(row):
            want = whole[i, :, :, at].permute(1, 0, 2).reshape(-1)  # cells, channels, bins
            assert torch.equal(values[i, j], want)


def test_several_masks_of_an_image():
    target, images = HOG((8, 8), 3), wavy()
    ids = torch.tensor([[0, 1], [2, 3], [0, 1], [4, 5]])
    values = target.values(torch.empty(0), images, ids)
    alone = target.values(torch.empty(0), images[1:], ids[2:3])
    assert torch.equal(values[2], alone[0])


def test_what_does_not_change_it():
    """A brighter image and more contrast: the same histograms (but for the epsilon)."""
    other = histograms(3 * wavy() + 2, 8, 9)
    torch.testing.assert_close(other, histograms(wavy(), 8, 9), rtol=0, atol=1e-7)
    assert not histograms(torch.ones(1, 1, 8, 8), 4, 9).any()


def test_cells_that_do_not_fit():
    assert HOG((4, 4), 1).width == 9  # one cell
    with pytest.raises(UsageError, match=r"cells of 8 .* patch of 12x12"):
        HOG((12, 12), 3)
    assert HOG((12, 12), 3, cell=6).width == 4 * 27
