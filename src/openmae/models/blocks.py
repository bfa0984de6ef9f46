"""The decoder's transformer block: timm's key names, and a forward that covers the exact savings of
MAE's decoder.

timm's own block cannot leave out the queries of tokens that nobody reads, and calling its parts
from outside would bypass the hooks of FSDP2 and of `block.compile()`. So every mode lives in
`forward`.

B batch, N tokens, M masked tokens, L grid positions, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with a packed qkv matrix, rows [q; k; v]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} does not divide by {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, shared: Tensor | None, ids: Tensor | None, num_queries: int
    ) -> Tensor:
        """Outputs (B, num_queries, D) for the last tokens of [x (B, N, D), shared[ids]], which
        attend to all of them.
        """
        dim = x.shape[-1]
        if shared is not None and ids is not None:
            table = self.qkv(shared)
            rows = F.embedding(ids, table)
            if num_queries == ids.shape[1]:  # no query of x is read
                query, keys = (
                    rows[..., :dim],
                    F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:]),
                )
                keyvalue = torch.cat([keys, rows[..., dim:]], dim=1)
            else:
                query, keyvalue = torch.cat([self.qkv(x), rows], dim=1).split(
                    [dim, 2 * dim], dim=-1
                )
                query = query[:, query.shape[1] - num_queries :]
        elif num_queries < x.shape[1]:
            query = F.linear(x[:, -num_queries:], self.qkv.weight[:dim], self.qkv.bias[:dim])
            keyvalue = F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:])
        else:
            query, keyvalue = self.qkv(x).split([dim, 2 * dim], dim=-1)
        heads = (self.num_heads, dim // self.num_heads)
        q = query.unflatten(-1, heads).transpose(1, 2)
        k, v = keyvalue.unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DecoderBlock(nn.Module):
    """A pre-norm block, x + attn(norm1(x)), then x + mlp(norm2(x)); LayerNorm eps 1e-6 as
    everywhere in MAE.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        ids: Tensor | None = None,
        num_queries: int | None = None,
    ) -> Tensor:
        """x (B, N, D) -> (B, N [+ M], D), or only its last `num_queries` tokens.

        With `shared` (L, D) and `ids` (B, M), the rows shared[ids] follow x as further tokens. They
        are the same for
        every sample, so their LayerNorm and qkv are computed once for each row of the table (the
        first decoder block: mask token + position). Without `num_queries` every token comes out;
        with it, keys and values come from all tokens and the rest of the block runs on the last
        ones only (the last decoder block).
        """
        num_tokens = x.shape[1] + (ids.shape[1] if ids is not None else 0)
        queries = num_queries or num_tokens
        normed = None if shared is None else self.norm1(shared)
        mixed = self.attn(self.norm1(x), normed, ids, queries)
        if shared is not None and ids is not None:
            rows = F.embedding(ids, shared)
            x = rows if queries == ids.shape[1] else torch.cat([x, rows], dim=1)
        x = x[:, x.shape[1] - queries :] + mixed
        return x + self.mlp(self.norm2(x))
