"""How near features are to having collapsed to a point or to a few directions: values to log.

N rows, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def spread(features: Tensor) -> Tensor:
    """How far apart features (N, D) are: the standard deviation of their normalised components,
    times sqrt(D): 1 on the whole sphere, 0 where they are all alike. 0-dim.
    """
    rows = F.normalize(features.detach().float(), dim=-1)
    return rows.std(0, correction=0).mean() * rows.shape[1] ** 0.5


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """In how many directions features (N, D) vary: (sum of l)^2 / (sum of l^2) of the eigenvalues l
    of their covariance (the participation ratio), between 1 and min(N - 1, D); 0 where they are all
    alike. 0-dim.
    """
    rows = features.detach().float()
    rows = rows - rows.mean(0)
    small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return small.diagonal().sum() ** 2 / small.square().sum().clamp_min(1e-30)
