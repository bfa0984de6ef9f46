"""Attention of a patch: what the block itself computes with."""

from __future__ import annotations

import pytest
import torch
from tiny_options import TINY_MAE

from openmae.methods.mae import MAE
from openmae.models.attentionmap import attention_of


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"class_token": False}, {"reg_tokens": 3, "qk_norm": True}])
def test_weights_times_values_are_the_output_of_the_block(more):
    options = {**TINY_MAE, "encoder_args": {**TINY_MAE["encoder_args"], **more}}
    torch.manual_seed(0)
    encoder = MAE(**options).eval().double().encoder
    encoder.vit.blocks[-1].attn.qkv.weight.mul_(20)  # fresh weights attend to all alike
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    attention, caught = encoder.vit.blocks[-1].attn, []
    hook = attention.register_forward_hook(lambda _, given, out: caught.append((given[0], out)))
    encoder(images)
    hook.remove()
    (x, out), at, length = caught[0], encoder.num_prefix_tokens, 24
    patches, prefix = attention_of(encoder, images, 7)
    assert patches.shape == (2, 2, length)
    assert prefix.shape == (2, 2)
    torch.testing.assert_close(patches.sum(-1) + prefix, torch.ones(2, 2).double())
    assert patches.std() > 1e-3
    if at:  # the rest of a row is known but for how prefix tokens share it: one of them
        if at > 1:
            return
        whole = torch.cat([prefix[..., None], patches], dim=-1)
    else:
        whole = patches
        assert torch.equal(prefix, torch.zeros_like(prefix))
    value = attention.qkv(x).unflatten(-1, (3, 2, -1))[:, :, 2]  # (B, N, heads, d)
    mixed = torch.einsum("bhn,bnhd->bhd", whole, value).flatten(1)
    torch.testing.assert_close(attention.proj(mixed), out[:, at + 7])


@torch.no_grad()
def test_the_class_token_looks_too_in_any_block():
    torch.manual_seed(0)
    encoder = MAE(**TINY_MAE).eval().double().encoder
    encoder.vit.blocks[0].attn.qkv.weight.mul_(20)
    attention, caught = encoder.vit.blocks[0].attn, []
    hook = attention.register_forward_hook(lambda _, given, out: caught.append((given[0], out)))
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    encoder(images)
    hook.remove()
    patches, prefix = attention_of(encoder, images, None, layer=1)
    x, out = caught[0]
    value = attention.qkv(x).unflatten(-1, (3, 2, -1))[:, :, 2]
    whole = torch.cat([prefix[..., None], patches], dim=-1)
    mixed = torch.einsum("bhn,bnhd->bhd", whole, value).flatten(1)
    torch.testing.assert_close(attention.proj(mixed), out[:, 0])
