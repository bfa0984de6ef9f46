"""The uniformity term of U-MAE (Zhang et al., arXiv 2210.08344): features of a batch are pushed
apart, so that they do not fall into few directions.

B rows of this rank, R ranks, N tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from openmae.models.gathering import all_rows


def uniformity(features: Tensor) -> Tensor:
    """Features (B, D) -> the mean squared cosine of all pairs of the global batch's rows (R * B)^2,
    0-dim. A row with itself counts, as a constant.
    """
    rows = all_rows(F.normalize(features.float() if features.itemsize < 4 else features, dim=-1))
    return (rows @ rows.T).square().mean()


def summary(latent: Tensor, prefix: int, has_class: bool) -> Tensor:
    """Tokens (B, N, D), `prefix` class and register tokens first -> features (B, D): the class
    token's, or the mean of the patches where there is none.
    """
    return latent[:, 0] if has_class else latent[:, prefix:].mean(dim=1)
