"""BYOL (Grill et al. 2020, arXiv 2006.07733) on a ViT, as of MoCo v3 (arXiv 2104.02057): predict
what a slowly moving copy of the network says of the other view.

B images of this rank, D outputs.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.twoviews import Momentum, Predicting, wide
from openmae.models.batchnorm import head
from openmae.models.whitening import whiten


class BYOL(Predicting):
    """Encoder, projector and predictor, with BatchNorm in their hidden layers over the global batch
    of a view; and the momentum encoder.

    Args:
        momentum: of the copy at the start; it rises to 1 by half a cosine.
        hidden, out: widths of projector and predictor, of which each has two layers.
        last_norm: projector and predictor end with BatchNorm (without weights), as those of MoCo v3
            do; BYOL's as published do not.
        predictor_lr: multiple of the learning rate that the predictor trains with. The paper
            raises it (section 5, "Importance of a near-optimal predictor"; appendix I) and then
            needs no momentum encoder; here it has both.
        whiten: what is predicted is whitened over both views of the global batch (see `whiten`), so
            that no direction of it outweighs the others; `out` should be well below the batch.
        more: as of `TwoViews` and `Base`.

    Raises:
        UsageError: a rate that is not above 0, and as `TwoViews` and `Base`.
    """

    def __init__(
        self,
        momentum: float = 0.996,
        hidden: int = 4096,
        out: int = 256,
        last_norm: bool = False,
        predictor_lr: float = 1.0,
        whiten: bool = False,
        **more: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "more")}
        super().__init__(**more)
        self.arguments |= given
        if not 0 < predictor_lr < math.inf:
            raise UsageError(f"predictor_lr={predictor_lr}: should be above 0")
        self.projector = head([self.encoder.vit.embed_dim, hidden, out], last_norm)
        self.predictor = head([out, hidden, out], last_norm)
        self.encoder.initialise()
        self.momentum = Momentum(self.encoder, self.projector, momentum)

    def targets(self, said: Tensor) -> Tensor:
        """See `whiten`."""
        return whiten(said) if self.arguments["whiten"] else said

    def lr_scales(self) -> dict[str, float]:
        """The predictor's, where it has its own."""
        told = self.arguments["predictor_lr"]
        return {} if told == 1 else {"predictor": told}

    def losses(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """See `distance`."""
        return distance(predicted, wanted)


def distance(predicted: Tensor, wanted: Tensor) -> Tensor:
    """2 - 2 cos of predictions and what was wanted, (B, D) each -> (B,), from 0 to 4."""
    return 2 - 2 * F.cosine_similarity(wide(predicted), wide(wanted), dim=-1)
