"""The paper's initialisation: xavier-uniform on every linear layer and on the patch embedding, N(0,
0.02) on tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def xavier_linear(module: nn.Module) -> None:
    """Initialise every Linear and LayerNorm below `module`, the fused qkv matrix as one (section
    A.1).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def xavier_conv(conv: nn.Conv2d, groups: Sequence[Sequence[int]]) -> None:
    """Initialise a patch embedding as the linear layer that it is, on its weight viewed as (D,
    C*p*q); each of several groups of its channels as a layer of its own.
    """
    with torch.no_grad():
        for own in groups:
            part = conv.weight[:, list(own)].flatten(1)
            nn.init.xavier_uniform_(part)
            conv.weight[:, list(own)] = part.unflatten(1, (-1, *conv.kernel_size))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def token(parameter: Tensor) -> None:
    """Initialise a class, register or mask token."""
    nn.init.normal_(parameter, std=0.02)
