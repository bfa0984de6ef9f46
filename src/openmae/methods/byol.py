"""BYOL (Grill et al. 2020, arXiv 2006.07733) on a ViT, as of MoCo v3 (arXiv 2104.02057): predict
what a slowly moving copy of the network says of the other view.

B images of this rank, D outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.methods.base import Randomness
from openmae.methods.twoviews import Momentum, TwoViews, both, result, wide
from openmae.models.batchnorm import head


class BYOL(TwoViews):
    """Encoder, projector and predictor, with BatchNorm in their hidden layers over the global batch
    of a view; and the momentum encoder.

    Args:
        momentum: of the copy at the start; it rises to 1 by half a cosine.
        hidden, out: widths of projector and predictor, of which each has two layers.
        more: as of `TwoViews` and `Base`.
    """

    def __init__(
        self, momentum: float = 0.996, hidden: int = 4096, out: int = 256, **more: Any
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "more")}
        super().__init__(**more)
        self.arguments |= given
        self.projector = head([self.encoder.vit.embed_dim, hidden, out], last_norm=False)
        self.predictor = head([out, hidden, out], last_norm=False)
        self.encoder.initialise()
        self.momentum = Momentum(self.encoder, self.projector, momentum)

    def forward(
        self, batch: Mapping[str, Any] | Tensor, rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Two views (B, 2, C, H, W) -> the loss and what is logged."""
        images = both(batch)
        features = self.feature(self.encoder, images)
        first, second = (self.predictor(self.projector(f)) for f in features.chunk(2))
        with torch.no_grad():
            theirs = self.feature(self.momentum.encoder, images).chunk(2)
            of_first, of_second = (self.momentum.projector(f) for f in theirs)
        return result(distance(first, of_second) + distance(second, of_first), features)

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Move the copy."""
        self.momentum.follow(self.encoder, self.projector, rand, skipped)


def distance(predicted: Tensor, wanted: Tensor) -> Tensor:
    """2 - 2 cos of predictions and what was wanted, (B, D) each -> (B,), from 0 to 4."""
    return 2 - 2 * F.cosine_similarity(wide(predicted), wide(wanted), dim=-1)
