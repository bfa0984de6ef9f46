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

from openmae.models.attention import attend
from openmae.models.products import multiply


class Attention(nn.Module):
    """Multi-head self-attention with a packed qkv matrix, rows [q; k; v]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} does not divide by {num_heads} heads")
        self.num_heads = num_heads
        self.backend = "sdpa"  # a name of `openmae.models.attention.BACKENDS`
        self.products = "torch"  # a name of `openmae.models.products.PRODUCTS`
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, shared: Tensor | None, ids: Tensor | None, num_queries: int
    ) -> Tensor:
        """Outputs (B, num_queries, D) for the last tokens of [x (B, N, D), shared[ids]], which
        attend to all of them.
        """
        if shared is not None and ids is not None:
            rows = F.embedding(ids, self.qkv(shared))
            if num_queries == ids.shape[1]:  # no query of x is read
                (_, weight), (_, bias) = self._query_and_rest()
                query, others = rows.split([x.shape[-1], 2 * x.shape[-1]], dim=-1)
                own = multiply(x, weight, bias, self.products)
                keyvalue = torch.cat([own, others], dim=1)
                q, (k, v) = self._heads(query, 1)[0], self._heads(keyvalue, 2)
            else:
                q, k, v = self._heads(torch.cat([self.qkv(x), rows], dim=1), 3)
                q = q[:, :, -num_queries:]
        elif num_queries < x.shape[1]:
            (wq, weight), (bq, bias) = self._query_and_rest()
            q = self._heads(multiply(x[:, -num_queries:], wq, bq, self.products), 1)[0]
            k, v = self._heads(multiply(x, weight, bias, self.products), 2)
        else:
            q, k, v = self._heads(self.qkv(x), 3)
        return self.proj(attend(q, k, v, self.backend).transpose(1, 2).flatten(2))

    def _query_and_rest(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Weight and bias, each in (the rows of q, those of k and v): split and not sliced twice,
        because the gradient of a slice is the whole matrix, filled with zeros.
        """
        sizes = [self.proj.in_features, 2 * self.proj.in_features]
        return self.qkv.weight.split(sizes), self.qkv.bias.split(sizes)

    def _heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * D) -> `parts` tensors (B, H, N, d). Taken apart before the transposition,
        so that the gradients are put together by one copy and already lie as `packed` does.
        """
        size = (parts, self.num_heads, self.proj.in_features // self.num_heads)
        return tuple(part.transpose(1, 2) for part in packed.unflatten(-1, size).unbind(2))


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
