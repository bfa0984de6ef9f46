"""The decoder that fills in the hidden patches (section 3 of the paper: 8 blocks of width 512 with
16 heads).

B batch, L patches, K kept, M = L - K masked, P prefix tokens, D decoder width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.models.blocks import DecoderBlock
from openmae.models.fusing import Blend
from openmae.models.initialise import token, xavier_linear
from openmae.models.positions import sincos_2d


class Trunk(nn.Module):
    """What decoders with self-attention are made of: embedding, positions, blocks, norm and a
    linear prediction; with a mask token, or without.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        out_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mask_token: bool,
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.embed = nn.Linear(encoder_dim, dim)
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        table = sincos_2d(dim, grid, num_prefix_tokens)
        self.pos_embed = nn.Parameter(table[None], requires_grad=False)
        self.blocks = nn.ModuleList(DecoderBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, out_dim)

    def initialise(self) -> None:
        """The paper's initialisation."""
        xavier_linear(self)

    def every(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Embedded tokens (B, P + L, D) in the grid's order, every block on every token -> (B, L,
        out).
        """
        x = x + (self.pos_embed[0] if positions is None else positions)
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x))[:, self.num_prefix_tokens :]


class Decoder(Trunk):
    """Self-attention over prefix, visible and mask tokens, then a linear prediction for each patch.

    Args:
        encoder_dim: width of the encoder's tokens.
        grid: rows and columns of patches.
        num_prefix_tokens: class and register tokens, which pass through the decoder as well.
        out_dim: values predicted for a patch.
        dim, depth, num_heads: size of the decoder.
        fuse: n, encoder blocks whose outputs are summed for it; 0 for the last one's alone.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        out_dim: int,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        fuse: int = 0,
    ) -> None:
        sizes = (encoder_dim, grid, num_prefix_tokens, out_dim, dim, depth, num_heads)
        super().__init__(*sizes, mask_token=True)
        self.fusion = Blend(fuse) if fuse else None

    def initialise(self) -> None:
        """The paper's initialisation."""
        super().initialise()
        token(self.mask_token)
        if self.fusion is not None:
            self.fusion.initialise()

    def forward(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Latent (B, P + K, D_enc) -> predictions (B, M, out) of the hidden patches alone, in the
        order of `hidden`. `positions` (P + L, D) stand in for the decoder's own at another grid.

        Equal to `forward_plain` on those patches, loss and gradients, with what nobody reads left
        out: tokens stay in the order [prefix, visible, masked] (attention does not care), the first
        block treats mask tokens once for each position, and the last block, norm and prediction run
        on masked tokens only.
        """
        prefix = self.num_prefix_tokens
        positions = self.pos_embed[0] if positions is None else positions
        first = torch.arange(prefix, device=kept.device).expand(len(kept), -1)
        rows = torch.cat([first, kept + prefix], dim=1)  # ids are small; tokens stay where they are
        x = self.embed(latent) + F.embedding(rows, positions)
        shared = self.mask_token[0] + positions[prefix:]  # (L, D)
        masked, last = hidden.shape[1], len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            queries = masked if i == last else None
            x = block(x, shared, hidden, queries) if i == 0 else block(x, num_queries=queries)
        if not self.blocks:
            x = F.embedding(hidden, shared)
        return self.pred(self.norm(x))

    def forward_plain(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """The published formulation: restore the grid's order, run every block on every token,
        predict all: (B, L, out).
        """
        x = self.embed(latent)
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        tokens = torch.cat([patches, self.mask_token.expand(len(x), hidden.shape[1], -1)], dim=1)
        restore = torch.cat([kept, hidden], dim=1).argsort(dim=1)
        tokens = tokens.gather(1, restore[..., None].expand(-1, -1, tokens.shape[-1]))
        return self.every(torch.cat([prefix, tokens], dim=1), positions)
