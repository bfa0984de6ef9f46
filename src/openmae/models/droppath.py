"""Stochastic depth whose draws are given: the same for any number of ranks and micro-batches."""

from __future__ import annotations

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a residual branch of a sample with probability `rate`, scale the kept ones by 1 / (1 -
    rate): timm's formula, with `draw` (B,) in [0, 1) set from outside before each forward.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draw: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Branch (B, N, D) -> the same, with rows dropped; unchanged in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        assert self.draw is not None, "draw_paths comes before the forward of a training step"
        kept = (self.draw >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *(1,) * (x.ndim - 1))


def install(vit: VisionTransformer, rate: float) -> list[DropPath]:
    """Replace timm's own drop path, which draws from a global generator; rates rise linearly from 0
    to `rate` over the blocks. Returns the modules, two a block.
    """
    rates = np.linspace(0, rate, len(vit.blocks)).tolist()
    paths = []
    for block, at in zip(vit.blocks, rates, strict=True):
        block.drop_path1, block.drop_path2 = DropPath(at), DropPath(at)
        paths += [block.drop_path1, block.drop_path2]
    return paths
