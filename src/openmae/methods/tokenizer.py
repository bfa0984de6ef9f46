"""A tokenizer of patches, which the one loop trains: its codes are what `tokens` predicts.

B batch, C channels, L patches, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.base import Randomness
from openmae.models.codebook import Codebook
from openmae.models.patches import patchify


class Tokenizer(nn.Module):
    """k-means of patches, or a small VQ-VAE of each patch (`openmae.models.codebook`).

    Everything that moves is a parameter, so ranks, micro-batches, skipped steps and resume are as
    of any method. Codes begin on patches of the data (`codebook.begin`) and are never put
    elsewhere: how many are used is measured.

    Args:
        patch_size: pixels, one number or (height, width).
        in_chans: channels, at least 1.
        mean, std: of the channels, on the scale [0, 1]; 0.5 by default.
        codes, kind, width, hidden: as of `Codebook`.

    Raises:
        UsageError: sizes that do not fit, or an unknown kind.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        codes: int = 512,
        kind: str = "kmeans",
        width: int = 32,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        p, q = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.patch, self.in_chans = (p, q), in_chans
        scale = {"mean": mean or (0.5,) * in_chans, "std": std or (0.5,) * in_chans}
        if min(p, q, in_chans) < 1 or any(len(v) != in_chans for v in scale.values()):
            raise UsageError(f"a tokenizer of {in_chans} channels and patches of {p}x{q}, {scale}")
        for name, values in scale.items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        try:
            self.codebook = Codebook(p * q * in_chans, codes, kind, width, hidden)
        except ValueError as error:
            raise UsageError(f"this tokenizer cannot be built: {error}") from None

    def patches(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or normalised floats -> patches (B, L, p*q*C)."""
        if not images.is_floating_point():
            images = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return patchify(images, self.patch)

    def forward(
        self, images: Tensor | Mapping[str, Any], rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Images or a batch -> "loss"; detached "sample_loss" (B,), "error" (0-dim), the squared
        error of normalised patches (a mean fill has almost 1), and "tokens" (B, L).
        """
        x = images if isinstance(images, Tensor) else images["image"]
        loss, error, ids = self.codebook(self.patches(x))
        sample = loss.detach().mean(dim=1)
        return {"loss": loss.mean(), "sample_loss": sample, "error": error.mean(), "tokens": ids}

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding: it is too small for any."""
        return []
