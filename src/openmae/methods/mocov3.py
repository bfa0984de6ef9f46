"""MoCo v3 (Chen, Xie, He 2021, arXiv 2104.02057): a prediction attracts what the momentum encoder
says of the other view, and is repelled by what it says of the other images of the global batch.

B images of this rank, N of all ranks, D outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.twoviews import Momentum, Predicting, wide
from openmae.models.batchnorm import head
from openmae.models.gathering import all_rows, rank
from openmae.models.precision import full_precision


class MoCoV3(Predicting):
    """Encoder, projector (3 layers) and predictor (2 layers), each with BatchNorm at all layers and
    without biases, and the momentum encoder. The defaults are the paper's.

    Args:
        temperature: of the loss.
        momentum: of the copy at the start; it rises to 1 by half a cosine.
        hidden, out: widths of projector and predictor.
        more: as of `TwoViews` and `Base`.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        momentum: float = 0.99,
        hidden: int = 4096,
        out: int = 256,
        **more: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "more")}
        super().__init__(**more)
        self.arguments |= given
        if temperature <= 0:
            raise UsageError(f"temperature={temperature}: must be above 0")
        self.temperature = temperature
        self.projector = head([self.encoder.vit.embed_dim, hidden, hidden, out])
        self.predictor = head([out, hidden, out])
        self.encoder.initialise()
        self.momentum = Momentum(self.encoder, self.projector, momentum)

    def losses(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """See `contrast`."""
        return contrast(predicted, wanted, self.temperature)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries (B, D) against the keys (B, D) of all ranks, times 2 T as published: (B,).
    The key of a query is the one of its row.
    """
    with full_precision(queries):
        own, others = (F.normalize(wide(v), dim=-1) for v in (queries, keys))
        logits = own @ all_rows(others).T / temperature
        wanted = torch.arange(len(own), device=own.device) + rank() * len(own)
        loss = F.cross_entropy(logits, wanted, reduction="none")
    return 2 * temperature * loss
