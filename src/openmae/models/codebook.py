"""A vocabulary for patches: the code nearest to a patch is its token.

B batch, L patches, W = p*q*C values of a patch, V codes, D numbers of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmae.models.patches import patch_statistics

KINDS = ("kmeans", "vqvae")
BETA = 0.25
"""Weight of the commitment term (van den Oord et al. 2017, arXiv 1711.00937)."""


class Codebook(nn.Module):
    """Codes for patches, each normalised by its own mean and deviation (as norm_pixels).

    "kmeans": the codes are patches themselves, D = W; its loss is the squared distance to the
    nearest, whose gradient moves each code towards the mean of its patches (k-means online).
    "vqvae": two layers before and after the codes, trained with the straight-through gradient, the
    codes by their own term (VQ-VAE); a patch by itself, so that tokens do not depend on the others.

    Args:
        values: W.
        codes: V, at least 2.
        kind: "kmeans" or "vqvae".
        width: D of a vqvae.
        hidden: width of its layers.

    Raises:
        ValueError: an unknown kind, or fewer than two codes.
    """

    def __init__(
        self, values: int, codes: int, kind: str = "kmeans", width: int = 32, hidden: int = 128
    ) -> None:
        super().__init__()
        if kind not in KINDS or codes < 2:
            raise ValueError(f"kind {kind!r}: one of {', '.join(KINDS)}; {codes} codes: at least 2")
        self.kind = kind
        size = values if kind == "kmeans" else width
        self.codes = nn.Parameter(torch.randn(codes, size) / size**0.5)
        if kind == "vqvae":
            self.into = nn.Sequential(
                nn.Linear(values, hidden), nn.GELU(), nn.Linear(hidden, width)
            )
            self.back = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, values)
            )

    def features(self, patches: Tensor) -> Tensor:
        """Patches (..., W) with normalised channels -> what is compared with codes (..., D)."""
        x = normalised(patches)
        return x if self.kind == "kmeans" else self.into(x)

    def nearest(self, features: Tensor) -> Tensor:
        """Features (..., D) -> the ids of their nearest codes (...); of equal ones the first."""
        kind = torch.promote_types(features.dtype, self.codes.dtype)
        where = "cpu" if features.is_meta else features.device.type
        with torch.autocast(where, enabled=False):
            x, codes = features.to(kind), self.codes.to(kind)
            return (codes.square().sum(dim=1) - 2 * x @ codes.T).argmin(dim=-1)

    @torch.no_grad()
    def ids(self, patches: Tensor) -> Tensor:
        """Patches (..., W) with normalised channels -> tokens (...), integers below V."""
        return self.nearest(self.features(patches))

    def rebuilt(self, ids: Tensor) -> Tensor:
        """Tokens (...) -> normalised patches (..., W)."""
        codes = self.codes[ids]
        return codes if self.kind == "kmeans" else self.back(codes)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches (B, L, W) -> the loss of each (B, L), its squared error (B, L), mean over the W
        values and without gradient, and its token (B, L).
        """
        goal = normalised(patches)
        found = goal if self.kind == "kmeans" else self.into(goal).to(goal.dtype)
        ids = self.nearest(found.detach())
        codes = self.codes[ids]
        if self.kind == "kmeans":
            loss = (goal - codes).square().mean(dim=-1)
            return loss, loss.detach(), ids
        out = self.back(found + (codes - found).detach()).to(goal.dtype)
        error = (goal - out).square().mean(dim=-1)
        pull = (found.detach() - codes).square().mean(dim=-1)
        commit = (found - codes.detach()).square().mean(dim=-1)
        return error + pull + BETA * commit, error.detach(), ids

    @torch.no_grad()
    def begin(self, patches: Tensor) -> None:
        """Put the codes on features of patches (N, W), evenly spaced among those that differ.

        Raises:
            ValueError: fewer different features than codes.
        """
        found = self.features(patches).unique(dim=0)
        count = len(self.codes)
        if len(found) < count:
            raise ValueError(f"{count} codes, but only {len(found)} different patches")
        # sorted by their first value: a fixed shuffle spreads the codes over all of it
        mixed = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
        self.codes.copy_(found[mixed[:count].to(found.device)])


def normalised(patches: Tensor) -> Tensor:
    """Each patch (..., W) minus its mean, over its deviation, in at least single precision. A mean
    fill then has an error of (W - 1) / W.
    """
    x = patches.to(torch.promote_types(patches.dtype, torch.float32))
    mean, variance = patch_statistics(x)
    return (x - mean) / (variance + 1e-6).sqrt()


def perplexity(counts: Tensor) -> Tensor:
    """How many codes a use of `counts` (V,) amounts to: exp of its entropy, 1 to V (0-dim)."""
    share = counts.double() / counts.sum().clamp(min=1)
    return torch.special.entr(share).sum().exp()
