"""Feature maps of a plain encoder, for tasks that say something of every pixel.

B batch, C channels, D width, h and w rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.models.attention import kernel
from openmae.models.encoder import Encoder
from openmae.models.positions import resize_positions

PUBLISHED = {12: (3, 5, 7, 11)}
"""Blocks whose maps UPerNet reads on an encoder of so many blocks, counted from 0."""


def chosen_blocks(depth: int, count: int = 4) -> tuple[int, ...]:
    """The blocks, counted from 0, whose maps a head reads: as published for 12 blocks, else spread
    evenly, the last one among them. A shallow encoder gives some of them twice.
    """
    if count == 4 and depth in PUBLISHED:
        return PUBLISHED[depth]
    return tuple(max(0, -(-(i + 1) * depth // count) - 1) for i in range(count))


def padded(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) with rows and columns of zeros, at the bottom and the right, up to whole
    patches; a normalised image has the value 0 where it is average.
    """
    bottom, right = (-side % step for side, step in zip(images.shape[-2:], patch, strict=True))
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def feature_maps(
    encoder: Encoder, images: Tensor, blocks: Sequence[int], norm: bool = False
) -> list[Tensor]:
    """Normalised images (B, C, H, W), whole patches of any number -> the maps (B, D, h, w) that
    come out of `blocks` (counted from 0, ascending), with or without the final norm.

    Positions are resized in two dimensions for another grid than the encoder's own. At its own size
    this is timm's `get_intermediate_layers`.
    """
    vit, (p, q) = encoder.vit, encoder.patch
    grid = images.shape[-2] // p, images.shape[-1] // q
    x = vit.patch_embed.norm(vit.patch_embed.proj(images).flatten(2).transpose(1, 2))
    prefix = [t.expand(len(x), -1, -1) for t in (vit.cls_token, vit.reg_token) if t is not None]
    at = encoder.num_prefix_rows
    table = resize_positions(vit.pos_embed, encoder.grid, grid, at)
    x = x + table[:, at:]
    if prefix:
        tokens = torch.cat(prefix, dim=1)
        x = torch.cat([tokens + table[:, :at] if at else tokens, x], dim=1)
    x = vit.norm_pre(x)
    kept: dict[int, Tensor] = {}
    with kernel(encoder.attention):
        for number, block in enumerate(vit.blocks[: max(blocks) + 1]):
            x = block(x)
            if number in blocks:
                kept[number] = vit.norm(x) if norm else x
    skip = encoder.num_prefix_tokens
    return [kept[b][:, skip:].transpose(1, 2).unflatten(2, grid) for b in blocks]
