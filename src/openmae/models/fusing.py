"""One encoder output made of all blocks': a learned weighted sum (MFF, Liu et al.,
arXiv 2308.00261; written from the paper's idea).

B batch, N tokens, D width, n blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Blend(nn.Module):
    """A weighted sum of what the encoder's blocks gave, before its final norm. The weights (n,)
    begin with all on the last block: the model without fusion, from which training departs.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(depth))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """1 on the last block; draws nothing."""
        self.weight.zero_()[-1] = 1

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """n tensors (B, N, D) -> (B, N, D)."""
        total = features[0] * self.weight[0].to(features[0].dtype)
        for weight, feature in zip(self.weight[1:], features[1:], strict=True):
            total = total + weight.to(feature.dtype) * feature
        return total
