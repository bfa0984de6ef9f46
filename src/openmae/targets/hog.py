"""Histograms of oriented gradients as a target (MaskFeat, Wei et al. 2022, arXiv 2112.09133).

B batch, C channels, L patches, M masked ones, O orientations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.models.patches import take
from openmae.targets.base import Target


class HOG(Target):
    """The histograms of the cells of a patch, of each channel by itself; 108 numbers for a 16-pixel
    patch of an RGB image: 2 x 2 cells x 3 channels x 9 orientations, in this order. The loss of a
    patch is the mean squared error.

    Args:
        patch: height and width of a patch in pixels; whole cells must fit.
        in_chans: channels of the images.
        cell: side of a cell in pixels; 8 as published, or the patch where that is smaller.
        bins: orientations in half a turn.

    Raises:
        UsageError: cells that do not fit the patch.
    """

    def __init__(self, patch: tuple[int, int], in_chans: int, cell: int = 0, bins: int = 9) -> None:
        side = cell or min(8, *patch)
        if side < 1 or bins < 1 or patch[0] % side or patch[1] % side:
            raise UsageError(
                f"target hog: cells of {side} pixels do not fill a patch of {patch[0]}x{patch[1]}"
                f" with {bins} orientations. Give target-args cell=N, a divisor of the patch"
            )
        super().__init__(patch, in_chans, patch[0] // side * (patch[1] // side) * in_chans * bins)
        self.cell, self.bins = side, bins

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        kind = torch.promote_types(images.dtype, torch.float32)
        found = histograms(images.to(kind), self.cell, self.bins)  # (B, C, cells, cells, O)
        rows, columns = self.patch[0] // self.cell, self.patch[1] // self.cell
        found = found.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        every = found.permute(0, 2, 4, 3, 5, 1, 6).flatten(3).flatten(1, 2)  # (B, L, W)
        return take(every.repeat_interleave(len(ids) // len(images), dim=0), ids)


def histograms(images: Tensor, cell: int, bins: int) -> Tensor:
    """Images (B, C, H, W), sides divisible by the cell -> histograms (B, C, H/cell, W/cell, O).

    As `skimage.feature.hog` of each channel with one cell a block and block_norm="L2": central
    differences, zero at the border; each pixel gives its magnitude to the one bin of its
    orientation in [0, 180) degrees; each histogram is divided by the cell's pixels, then by its
    norm.
    """
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    right[..., 1:-1] = images[..., 2:] - images[..., :-2]
    angle = torch.atan2(down, right).rad2deg().remainder(180)
    which = (angle * (bins / 180)).long().clamp(max=bins - 1)
    size = (down.square() + right.square()).sqrt()
    chosen = torch.arange(bins, device=images.device).view(bins, 1, 1)
    spread = size.unsqueeze(2) * (which.unsqueeze(2) == chosen)  # (B, C, O, H, W)
    cells = spread.unflatten(4, (-1, cell)).unflatten(3, (-1, cell)).mean(dim=(4, 6))
    cells = cells.movedim(2, -1)  # (B, C, rows, columns, O)
    norm = (cells.square().sum(dim=-1, keepdim=True) + 1e-10).sqrt()
    return cells / norm
