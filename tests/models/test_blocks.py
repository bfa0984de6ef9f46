"""The decoder's block against timm's Block with the same weights, in every mode of its forward."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from openmae.models.blocks import Attention, DecoderBlock

DIM, HEADS, BATCH, TOKENS, MASKED, TABLE = 32, 4, 3, 7, 5, 12


def twins(mlp_ratio: float = 4.0) -> tuple[DecoderBlock, Block]:
    """Our block and timm's, float64, with the same weights, none of them at 0 or 1."""
    torch.manual_seed(0)
    ours = DecoderBlock(DIM, HEADS, mlp_ratio).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    norm = partial(nn.LayerNorm, eps=1e-6)
    theirs = Block(DIM, HEADS, mlp_ratio, qkv_bias=True, norm_layer=norm).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, N, D), a table (L, D) and ids (B, M) of its rows."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64, generator=generator)
    table = torch.randn(TABLE, DIM, dtype=torch.float64, generator=generator)
    ids = torch.rand(BATCH, TABLE, generator=generator).argsort(1)[:, :MASKED]
    return x.requires_grad_(), table.requires_grad_(), ids


def gradients(out: Tensor, block: nn.Module, *tensors: Tensor) -> dict[str, Tensor]:
    """Of a fixed weighting of `out`, for every parameter and input."""
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    named = dict(block.named_parameters()) | {f"input{i}": t for i, t in enumerate(tensors)}
    return dict(
        zip(named, torch.autograd.grad((out * weight).sum(), list(named.values())), strict=True)
    )


def gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, relative to a tensor's norm; a key bias's gradient must be zero."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, want in theirs.items():
        parts = [(ours[name], want)]
        if name == "attn.qkv.bias":
            q, k, v = zip(ours[name].chunk(3), want.chunk(3), strict=True)
            assert max(k[0].abs().max(), k[1].abs().max()) < 1e-12
            parts = [q, v]
        worst = max([worst, *(float((a - b).norm() / b.norm()) for a, b in parts)])
    return worst


@pytest.mark.parametrize("mlp_ratio", [4.0, 2.0])
def test_plain(mlp_ratio):
    (ours, theirs), (x, _, _) = twins(mlp_ratio), inputs()
    out, want = ours(x), theirs(x)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-13)
    assert gap(gradients(out, ours, x), gradients(want, theirs, x)) < 1e-12


@pytest.mark.parametrize("queries", [1, 3, TOKENS])
def test_last_tokens_only(queries):
    (ours, theirs), (x, _, _) = twins(), inputs()
    out, want = ours(x, num_queries=queries), theirs(x)[:, -queries:]
    assert out.shape == (BATCH, queries, DIM)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-13)
    assert gap(gradients(out, ours, x), gradients(want, theirs, x)) < 1e-12


@pytest.mark.parametrize("queries", [None, MASKED, TOKENS + MASKED, 2, MASKED + 3])
def test_shared_rows(queries):
    (ours, theirs), (x, table, ids) = twins(), inputs()
    want = theirs(torch.cat([x, table[ids]], dim=1))
    want = want if queries is None else want[:, -queries:]
    out = ours(x, table, ids, queries)
    assert out.shape == want.shape
    torch.testing.assert_close(out, want, rtol=0, atol=1e-13)
    ours_gradients = gradients(out, ours, x, table)
    assert gap(ours_gradients, gradients(want, theirs, x, table)) < 1e-12


def test_shared_rows_may_be_used_twice():
    (ours, theirs), (x, table, _) = twins(), inputs()
    ids = torch.tensor([[0, 0, 3], [11, 4, 4], [1, 2, 3]])
    want = theirs(torch.cat([x, table[ids]], dim=1))
    torch.testing.assert_close(ours(x, table, ids), want, rtol=0, atol=1e-13)
    assert not torch.allclose(want[0, -1], want[0, -2])


def test_keys_of_every_token_matter():
    """The saving leaves out queries, never keys: an unread token still changes the others."""
    ours, _ = twins()
    x, _, _ = inputs()
    changed = x.detach().clone()
    changed[:, 0] = changed[:, 0].flip(-1)
    difference = (ours(x, num_queries=2) - ours(changed, num_queries=2)).abs()
    assert difference.amin(dim=0).max() > 1e-3


def test_names_and_epsilon_are_timms():
    ours, theirs = twins()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert (ours.norm1.eps, ours.norm2.eps) == (1e-6, 1e-6)


def test_width_must_divide_by_heads():
    with pytest.raises(ValueError, match="32 does not divide by 5 heads"):
        Attention(32, 5)
