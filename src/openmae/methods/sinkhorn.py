"""Sinkhorn-Knopp centring of what a teacher says (SwAV, Caron et al. 2020, arXiv 2006.09882; a row
of DINO's ablations, and the centring of DINOv2): every prototype is used equally.

N rows of this rank, K prototypes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openmae.models.gathering import all_max, all_sum

ITERATIONS = 3  # of SwAV, DINO and DINOv2


@torch.no_grad()
def sinkhorn(
    logits: Tensor, temperature: float, weight: Tensor | None = None, iterations: int = ITERATIONS
) -> Tensor:
    """Logits (N, K) -> shares (N, K): each row sums to 1, and all prototypes are used nearly alike
    over the rows of all ranks.

    exp(logits / temperature), whose columns and then rows are divided by their sums, so often.

    Args:
        logits: of the teacher.
        temperature: the lower, the nearer each row is to one prototype.
        weight: 1 or 0 of each row (N,): those of 0 take no part in the sums of columns.
        iterations: of columns and rows.
    """
    logs = logits / temperature  # not the shares themselves: at low temperatures these underflow
    away = None if weight is None else weight[:, None] == 0
    for _ in range(iterations):
        logs = logs - _column_logs(logs if away is None else logs.masked_fill(away, -math.inf))
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()


def _column_logs(logs: Tensor) -> Tensor:
    """The logarithms of the sums of exp(logs) (N, K) over the rows of all ranks: (K,)."""
    largest = all_max(logs.amax(0))
    largest = torch.where(largest.isfinite(), largest, 0.0)  # no rows at all
    sums = all_sum((logs - largest).exp().sum(0))
    return largest + sums.log().clamp(min=torch.finfo(sums.dtype).min)
