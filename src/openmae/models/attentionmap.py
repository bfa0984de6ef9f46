"""Where a patch looks: the attention of a block of the encoder.

P prefix tokens (class and registers), L patches, N = P + L.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.models.encoder import Encoder


@torch.inference_mode()
def attention_of(
    encoder: Encoder, images: Tensor, patch: int | None, layer: int | None = None
) -> tuple[Tensor, Tensor]:
    """Of images (B, C, H, W), nothing hidden: softmax(q k^T / sqrt(d)) of the query of one patch,
    or of the class token (None), for each head, in a block counted from 1 (the last by default).
    Returns what goes to the patches (B, heads, L) and to prefix tokens (B, heads); both together
    are 1.
    """
    attention = encoder.vit.blocks[-1 if layer is None else layer - 1].attn
    caught: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        encoder(images)
    finally:
        hook.remove()
    (x,) = caught
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1))
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, d) each
    at = encoder.num_prefix_tokens
    row = 0 if patch is None else at + patch
    query = attention.q_norm(q)[:, :, row : row + 1] * attention.scale
    weights = (query @ attention.k_norm(k).transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
    return weights[..., at:], weights[..., :at].sum(dim=-1)
