"""A decoder in which mask tokens read the visible ones and never each other (CrossMAE, Fu et al.,
arXiv 2401.14391, section 3; written from the paper).

Every hidden patch is predicted on its own, so that a part of them can be predicted for a part of
the work, and the part changes nothing in the prediction of those that are.

B batch, L patches, M patches to predict, N tokens of the encoder, E encoder width, D decoder width,
n encoder blocks, m decoder blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.models.attention import attend
from openmae.models.blocks import Mlp
from openmae.models.initialise import token, xavier_linear
from openmae.models.positions import sincos_2d


class CrossAttention(nn.Module):
    """Multi-head attention of queries to tokens of another width; timm's names q, kv and proj."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} does not divide by {num_heads} heads")
        self.num_heads = num_heads
        self.backend = "sdpa"  # a name of `openmae.models.attention.BACKENDS`
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, ids: Tensor | None) -> Tensor:
        """Queries x (B, M, D), or rows `ids` (B, M) of a table x (L, D) that all samples share,
        over context (B, N, E) -> (B, M, D).
        """
        query = self.q(x)
        query = query if ids is None else F.embedding(ids, query)
        heads = (self.num_heads, query.shape[-1] // self.num_heads)
        q = query.unflatten(-1, heads).transpose(1, 2)
        k, v = (t.transpose(1, 2) for t in self.kv(context).unflatten(-1, (2, *heads)).unbind(2))
        return self.proj(attend(q, k, v, self.backend).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """A pre-norm block without self-attention: x + attn(norm1(x), context), then x + mlp(norm2(x)).
    The context comes normalised.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, context_dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor, ids: Tensor | None = None) -> Tensor:
        """x (B, M, D), context (B, N, E) -> (B, M, D). With `ids` (B, M), x is a table (L, D): its
        LayerNorm and queries are computed once for each row (the first block).
        """
        mixed = self.attn(self.norm1(x), context, ids)
        x = (x if ids is None else F.embedding(ids, x)) + mixed
        return x + self.mlp(self.norm2(x))


class Fusion(nn.Module):
    """For each decoder block a learned weighted sum of what the encoder's blocks gave ("inter-block
    attention" of the paper). Weights (m, n) begin as N(0, 1/n).
    """

    def __init__(self, depth: int, encoder_depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(depth, encoder_depth))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """n tensors (B, N, E) -> (m, B, N, E)."""
        stacked = torch.stack(tuple(features))
        return (self.weight.to(stacked.dtype) @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])


class CrossDecoder(nn.Module):
    """Mask tokens with positions are the queries; the encoder's tokens, class and registers among
    them, are keys and values in every block. They already know their positions, so they get none
    here, nor a projection of their own: keys and values are made from the encoder's width.

    Prefix tokens have no query: their only gradient is that of the keys and values which mask
    tokens read from them.

    Args:
        encoder_dim: E, width of the encoder's tokens.
        grid: rows and columns of patches.
        out_dim: values predicted for a patch.
        dim, depth, num_heads: size of the decoder.
        fuse: n, encoder blocks whose outputs are summed for each decoder block; 0 for the last
            one's output alone.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: tuple[int, int],
        out_dim: int,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        fuse: int = 0,
    ) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_2d(dim, grid)[None], requires_grad=False)
        self.fusion = Fusion(depth, fuse) if fuse else None
        self.blocks = nn.ModuleList(CrossBlock(dim, encoder_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, out_dim)

    def initialise(self) -> None:
        """The paper's initialisation."""
        xavier_linear(self)
        token(self.mask_token)
        if self.fusion is not None:
            nn.init.normal_(self.fusion.weight, std=self.fusion.weight.shape[1] ** -0.5)

    def forward(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Latent (B, N, E), or one of (m, B, N, E) for each block -> predictions (B, M, out) of the
        patches `hidden` (B, M), in their order. `kept` is not needed: the signature is that of
        `Decoder`.
        """
        table = self._table(positions)
        x = table if self.blocks else F.embedding(hidden, table)
        for i, block in enumerate(self.blocks):
            context = latent if latent.dim() == 3 else latent[i]
            x = block(x, context, hidden if i == 0 else None)
        return self.pred(self.norm(x))

    def forward_plain(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """The plain formulation: a mask token at every patch, every token its own way through every
        block: (B, L, out).
        """
        x = self._table(positions).expand(len(kept), -1, -1)
        for i, block in enumerate(self.blocks):
            x = block(x, latent if latent.dim() == 3 else latent[i])
        return self.pred(self.norm(x))

    def _table(self, positions: Tensor | None) -> Tensor:
        """Mask token and position of every patch (L, D)."""
        return self.mask_token[0] + (self.pos_embed[0] if positions is None else positions)
