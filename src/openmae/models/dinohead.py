"""The head of DINO (Caron et al. 2021, arXiv 2104.14294): an MLP to a narrow normalised vector, and
a weight-normed layer to many prototypes.

N rows, D width of the encoder, K prototypes.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.models.batchnorm import BatchNorm


class DinoHead(nn.Module):
    """Linear layers with GELU and biases; then cosines to K prototypes, times a
    scale of each that begins at 1.

    Args:
        width: D.
        hidden: width of the hidden layers.
        bottleneck: width of the vector that is normalised.
        out: K.
        layers: of the MLP, at least 1.
        norm_last_layer: the scales stay 1 (stabler for large models).
        norm: BatchNorm before each GELU, as the published code has it for networks that have
            BatchNorm themselves; off for ViTs.
    """

    def __init__(
        self,
        width: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        out: int = 65536,
        layers: int = 3,
        norm_last_layer: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for one, two in itertools.pairwise(sizes):
            linear = nn.Linear(one, two)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            parts += [linear, *([BatchNorm(two)] if norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*parts[: -2 if norm else -1])
        self.prototypes = nn.Parameter(torch.empty(out, bottleneck))
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)
        self.scale = nn.Parameter(torch.ones(out), requires_grad=not norm_last_layer)
        self.frozen = False  # the gradients of the last layer are 0

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, K)."""
        narrow = F.normalize(self.mlp(features), dim=-1)
        weight = F.normalize(self.prototypes, dim=-1) * self.scale[:, None]
        if self.frozen and weight.requires_grad:
            weight.register_hook(lambda grad: grad * 0)
        return F.linear(narrow, weight.to(narrow.dtype))
