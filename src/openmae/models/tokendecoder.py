"""Decoders for an encoder that has seen mask tokens itself: each hidden patch has its own token.

B batch, L patches, K kept, M to predict, P prefix tokens, E encoder width, D decoder width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.models.decoder import Trunk
from openmae.models.initialise import xavier_linear


class TokenDecoder(Trunk):
    """Blocks as of the paper's decoder over all tokens of the encoder, without a mask token of its
    own (Table 1c, "encoder w/ [M]").

    Args:
        encoder_dim: E. grid: rows and columns of patches. num_prefix_tokens: P.
        out_dim: values predicted for a patch.
        dim, depth, num_heads: size of the decoder.
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
    ) -> None:
        sizes = (encoder_dim, grid, num_prefix_tokens, out_dim, dim, depth, num_heads)
        super().__init__(*sizes, mask_token=False)

    def forward(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Latent (B, P + K + M, E) in the order [prefix, kept, hidden] -> (B, M, out). The last
        block runs on hidden patches only, as those alone are read.
        """
        prefix, masked, last = self.num_prefix_tokens, hidden.shape[1], len(self.blocks) - 1
        table = self.pos_embed[0] if positions is None else positions
        first = torch.arange(prefix, device=kept.device).expand(len(kept), -1)
        rows = torch.cat([first, kept + prefix, hidden + prefix], dim=1)
        x = self.embed(latent) + F.embedding(rows, table)
        for i, block in enumerate(self.blocks):
            x = block(x, num_queries=masked if i == last else None)
        return self.pred(self.norm(x[:, -masked:]))

    def forward_plain(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Latent (B, P + L, E) in the grid's order, every block on every token -> (B, L, out)."""
        return self.every(self.embed(latent), positions)


class PointDecoder(nn.Module):
    """A prediction from each token alone: one linear layer (SimMIM), or two with a GELU between.

    Args:
        encoder_dim: E. num_prefix_tokens: P.
        out_dim: values predicted for a patch.
        dim: hidden width of "mlp"; 0 for one linear layer.
    """

    def __init__(
        self, encoder_dim: int, num_prefix_tokens: int, out_dim: int, dim: int = 0
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.blocks = nn.ModuleList()
        self.fc1 = nn.Linear(encoder_dim, dim) if dim else None
        self.pred = nn.Linear(dim or encoder_dim, out_dim)

    def initialise(self) -> None:
        """The paper's initialisation."""
        xavier_linear(self)

    def forward(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """As of `TokenDecoder`; positions are those that the encoder has added."""
        return self._each(latent[:, -hidden.shape[1] :])

    def forward_plain(
        self, latent: Tensor, kept: Tensor, hidden: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """As of `TokenDecoder`."""
        return self._each(latent[:, self.num_prefix_tokens :])

    def _each(self, x: Tensor) -> Tensor:
        return self.pred(x if self.fc1 is None else F.gelu(self.fc1(x)))
