"""The cross-attention decoder against its formula, written out; what its savings leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.models.crossdecoder import CrossAttention, CrossBlock, CrossDecoder, Fusion

B, L, M, N, E, D, HEADS = 3, 24, 18, 7, 12, 8, 2
GRID = (4, 6)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def decoder(depth: int = 2, fuse: int = 0) -> CrossDecoder:
    """Float64, with random weights everywhere but in the frozen positions."""
    made = CrossDecoder(E, GRID, 5, D, depth, HEADS, fuse).double()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(made.named_parameters()):
            if name != "pos_embed":
                parameter.add_(0.5 * noise(*parameter.shape, seed=number))
    return made


def ids(rows: int = B) -> tuple[Tensor, Tensor]:
    order = noise(rows, L, seed=99).argsort(dim=1)
    return order[:, : L - M], order[:, L - M :]


def norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * layer.weight + layer.bias


def by_formula(made: CrossDecoder, contexts: list[Tensor], hidden: Tensor) -> Tensor:
    """Sample by sample, query by query, head by head."""
    out = torch.empty(len(hidden), hidden.shape[1], 5, dtype=torch.float64)
    for b in range(len(hidden)):
        for j, place in enumerate(hidden[b]):
            x = made.mask_token[0, 0] + made.pos_embed[0, place]
            for block, context in zip(made.blocks, contexts, strict=True):
                a, width = block.attn, D // HEADS
                q = a.q.weight @ norm(x, block.norm1) + a.q.bias
                keyvalue = context[b] @ a.kv.weight.T + a.kv.bias
                mixed = []
                for h in range(HEADS):
                    part = slice(h * width, (h + 1) * width)
                    k, v = keyvalue[:, :D][:, part], keyvalue[:, D:][:, part]
                    share = (k @ q[part] / width**0.5).softmax(0)
                    mixed.append(share @ v)
                x = x + a.proj.weight @ torch.cat(mixed) + a.proj.bias
                y = block.mlp.fc1.weight @ norm(x, block.norm2) + block.mlp.fc1.bias
                y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
                x = x + block.mlp.fc2.weight @ y + block.mlp.fc2.bias
            out[b, j] = made.pred.weight @ norm(x, made.norm) + made.pred.bias
    return out


@pytest.mark.parametrize("depth", [1, 3])
def test_the_formula(depth):
    made, latent, (kept, hidden) = decoder(depth), noise(B, N, E), ids()
    want = by_formula(made, [latent] * depth, hidden)
    torch.testing.assert_close(made(latent, kept, hidden), want, rtol=0, atol=1e-12)
    assert want.std() > 0.1


def test_the_formula_with_a_context_for_each_block():
    made, contexts, (kept, hidden) = decoder(2), noise(2, B, N, E), ids()
    want = by_formula(made, list(contexts), hidden)
    torch.testing.assert_close(made(contexts, kept, hidden), want, rtol=0, atol=1e-12)
    other = made(contexts.flip(0), kept, hidden)
    assert (other - want).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_plain_formulation_is_the_same_at_hidden_patches(depth):
    made, latent, (kept, hidden) = decoder(depth), noise(B, N, E), ids()
    full = made.forward_plain(latent, kept, hidden)
    assert full.shape == (B, L, 5)
    rows = full.gather(1, hidden[..., None].expand(-1, -1, 5))
    torch.testing.assert_close(made(latent, kept, hidden), rows, rtol=0, atol=1e-13)


def test_a_patch_does_not_know_which_others_are_predicted():
    made, latent, (kept, hidden) = decoder(), noise(B, N, E), ids()
    everything = made(latent, kept, hidden)
    some = made(latent, kept, hidden[:, [5, 2]])
    torch.testing.assert_close(some, everything[:, [5, 2]], rtol=0, atol=1e-13)


def test_the_order_of_the_encoders_tokens_does_not_count():
    made, latent, (kept, hidden) = decoder(), noise(B, N, E), ids()
    torch.testing.assert_close(
        made(latent.flip(1), kept, hidden), made(latent, kept, hidden), rtol=0, atol=1e-13
    )


def test_fusion_is_a_weighted_sum_for_each_block():
    fusion, features = Fusion(2, 3).double(), noise(3, B, N, E)
    with torch.no_grad():
        fusion.weight.copy_(noise(2, 3, seed=5))
    want = torch.stack(
        [sum(w * f for w, f in zip(row, features, strict=True)) for row in fusion.weight]
    )
    torch.testing.assert_close(fusion(list(features)), want, rtol=0, atol=1e-14)


def test_names_and_sizes():
    made = CrossDecoder(E, GRID, 5, D, 1, HEADS, fuse=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    block = {n: s for n, s in shapes.items() if n.startswith("blocks.0.") and n.endswith("weight")}
    assert {n.removeprefix("blocks.0.").removesuffix(".weight"): s for n, s in block.items()} == {
        "norm1": (D,), "attn.q": (D, D), "attn.kv": (2 * D, E), "attn.proj": (D, D),
        "norm2": (D,), "mlp.fc1": (4 * D, D), "mlp.fc2": (D, 4 * D),
    }  # fmt: skip
    assert shapes["fusion.weight"] == (1, 4)
    assert shapes["pos_embed"] == (1, L, D)
    assert "embed.weight" not in shapes


def test_initialisation():
    torch.manual_seed(0)
    made = CrossDecoder(64, GRID, 5, 64, 64, 4, fuse=100)
    made.initialise()
    bound = (6 / (64 + 128)) ** 0.5
    weight = made.blocks[0].attn.kv.weight
    assert bound * 0.98 < weight.abs().max() <= bound
    assert made.blocks[0].attn.kv.bias.abs().max() == 0
    assert made.fusion.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert made.mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert not made.pos_embed.requires_grad


def test_a_width_that_does_not_divide_by_the_heads():
    with pytest.raises(ValueError, match="8 does not divide by 3 heads"):
        CrossAttention(8, 8, 3)


@pytest.mark.parametrize("backend", ["eager", "math"])
def test_another_backend_is_the_same(backend):
    block, x, context = CrossBlock(D, E, HEADS).double(), noise(B, M, D), noise(B, N, E, seed=1)
    want = block(x, context)
    block.attn.backend = backend
    torch.testing.assert_close(block(x, context), want, rtol=0, atol=1e-13)
