"""Where a patch looks: the attention of the encoder's last block.

P prefix tokens (class and registers), L patches, N = P + L.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.models.encoder import Encoder


@torch.inference_mode()
def attention_of(encoder: Encoder, images: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Of images (B, C, H, W), nothing hidden: softmax(q k^T / sqrt(d)) of the query of one patch,
    for each head. Returns what goes to the patches (B, heads, L) and to prefix tokens (B, heads);
    both together are 1.
    """
    attention = encoder.vit.blocks[-1].attn
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
    query = attention.q_norm(q)[:, :, at + patch : at + patch + 1] * attention.scale
    weights = (query @ attention.k_norm(k).transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
    return weights[..., at:], weights[..., :at].sum(dim=-1)
