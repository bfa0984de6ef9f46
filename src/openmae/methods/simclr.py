"""SimCLR (Chen et al. 2020, arXiv 2002.05709) on a ViT, as of MoCo v3 (arXiv 2104.02057): the two
views of an image attract each other, all others of the global batch repel.

B images of this rank, N of all ranks, D outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.base import Randomness
from openmae.methods.twoviews import TwoViews, both, result, wide
from openmae.models.batchnorm import head
from openmae.models.gathering import all_rows, rank
from openmae.models.precision import full_precision


class SimCLR(TwoViews):
    """One encoder and a projector with BatchNorm over both views of the global batch.

    Args:
        temperature: of the loss.
        hidden, out, projector_layers: widths and number of layers of the projector.
        more: as of `TwoViews` and `Base`.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        hidden: int = 4096,
        out: int = 256,
        projector_layers: int = 3,
        **more: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "more")}
        super().__init__(**more)
        self.arguments |= given
        if temperature <= 0 or projector_layers < 1:
            raise UsageError(
                f"temperature={temperature} and projector_layers={projector_layers} must be above 0"
            )
        self.temperature = temperature
        sizes = [self.encoder.vit.embed_dim, *[hidden] * (projector_layers - 1), out]
        self.projector = head(sizes)
        self.encoder.initialise()

    def forward(
        self, batch: Mapping[str, Any] | Tensor, rand: Randomness | None = None
    ) -> dict[str, Tensor]:
        """Two views (B, 2, C, H, W) -> the loss and what is logged."""
        images = both(batch)
        features = self.feature(self.encoder, images, self.patches(images, rand))
        first, second = wide(self.projector(features)).chunk(2)
        return result(nt_xent(first, second, self.temperature), features)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised, temperature-scaled cross-entropy of projections (B, D) of two views over the
    global batch: (B,), the mean of both views of an image.
    """
    with full_precision(first):
        own = F.normalize(torch.stack([first, second]), dim=-1)
        count = own.shape[1]
        everyone = all_rows(own.transpose(0, 1)).transpose(0, 1)  # (2, N, D)
        logits = own.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature
        total = everyone.shape[1]
        rows = torch.arange(count, device=own.device) + rank() * count
        itself = torch.cat([rows, rows + total])
        logits = logits.scatter(1, itself[:, None], float("-inf"))
        loss = F.cross_entropy(logits, torch.cat([rows + total, rows]), reduction="none")
    return loss.view(2, count).mean(0)
