"""Features of an image and of its crops, large and small, as the methods that compare crops take
them.

B images, V crops of each, D width of the encoder, P prefix tokens, L patches, K prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.models.encoder import Encoder
from openmae.models.positions import GridTables

POOLS = ("cls", "mean")


@dataclass(frozen=True)
class Crops:
    """Of a batch: large crops (2 B, C, H, W), small ones ((V - 2) B, C, h, w) if there are any, all
    of one view after the other; V; the draws of the dropped paths (B, V, paths); the share of the
    run that is done.
    """

    large: Tensor
    small: Tensor | None
    views: int
    draws: Tensor
    progress: float


def check_pool(pool: str, encoder: Encoder) -> None:
    """Raise UsageError unless features of `encoder` can be pooled in this way."""
    if pool not in POOLS or (pool == "cls" and encoder.vit.cls_token is None):
        raise UsageError(f"pool={pool}: should be cls (of encoders that have it) or mean")


def pooled(encoder: Encoder, tokens: Tensor, pool: str) -> Tensor:
    """Tokens (N, P + L, D) after the final norm -> a feature each (N, D): the class token, or the
    mean of the patch tokens.
    """
    return tokens[:, 0] if pool == "cls" else tokens[:, encoder.num_prefix_tokens :].mean(1)


def resized(encoder: Encoder, images: Tensor, tables: GridTables) -> Tensor:
    """Tokens (N, P + L, D) of images of another size: as the encoder's own forward, with the
    sin-cos positions of their grid.
    """
    grid = (images.shape[-2] // encoder.patch[0], images.shape[-1] // encoder.patch[1])
    ids = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
    return encoder.encode_plain(images, ids, tables(grid))
