"""Mask tokens in the encoder: it sees every position, hidden patches as one learned token (Table 1c
of the paper; SimMIM, BEiT and MaskFeat encode so).

B batch, K kept, M hidden, P prefix tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.models.encoder import Encoder, Fuse
from openmae.models.products import multiply


def encode_masked(
    encoder: Encoder,
    patches: Tensor,
    kept: Tensor,
    hidden: Tensor,
    mask_token: Tensor,
    positions: Tensor | None = None,
    fuse: Fuse | None = None,
) -> Tensor:
    """Kept patch vectors (B, K, p*q*C) at ids (B, K), and `mask_token` (1, 1, D) at the ids (B, M)
    -> tokens (B, P + K + M, D), in that order: attention does not care, and positions are added
    before. Only the kept patches are embedded. `positions` and `fuse` as of `Encoder.encode_kept`.
    """
    embed = encoder.vit.patch_embed
    weight = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p*q*C), channel last
    x = embed.norm(multiply(patches, weight, embed.proj.bias, encoder.products))
    masks = mask_token.to(x.dtype).expand(len(x), hidden.shape[1], -1)
    ids = torch.cat([kept, hidden], dim=1)
    return encoder._transform(torch.cat([x, masks], dim=1), ids, positions, fuse)


def encode_masked_plain(
    encoder: Encoder,
    images: Tensor,
    kept: Tensor,
    hidden: Tensor,
    mask_token: Tensor,
    positions: Tensor | None = None,
    fuse: Fuse | None = None,
) -> Tensor:
    """The plain formulation, in the grid's order: embed all patches of the images (B, C, H, W), put
    the token where they are hidden -> (B, P + L, D).
    """
    (p, q), (height, width) = encoder.patch, images.shape[-2:]
    length = (height // p) * (width // q)
    away = torch.zeros(len(hidden), length, dtype=torch.bool, device=hidden.device)
    away = away.scatter(1, hidden, True)
    return encode_where(encoder, images, away, mask_token, positions, fuse)


def encode_where(
    encoder: Encoder,
    images: Tensor,
    away: Tensor,
    mask_token: Tensor,
    positions: Tensor | None = None,
    fuse: Fuse | None = None,
) -> Tensor:
    """The same for any number of hidden patches of each image: where `away` (B, L) is true."""
    embed = encoder.vit.patch_embed
    x = embed.norm(embed.proj(encoder.normalize(images)).flatten(2).transpose(1, 2))
    x = torch.where(away[..., None], mask_token.to(x.dtype), x)
    every = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    return encoder._transform(x, every, positions, fuse)
