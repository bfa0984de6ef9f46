"""Whitening over the global batch (ZCA): as BatchNorm, but directions too get variance 1, not only
features (decorrelated BatchNorm, Huang et al. 2018, arXiv 1804.08450; for two views Hua et al.
2021, arXiv 2105.00470).

N rows of this rank, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmae.models.gathering import all_sum, ranks
from openmae.models.precision import full_precision

SHRINK = 0.02
"""Share of the covariance that is replaced by its mean variance: a direction below that variance is
not raised to 1, or a batch not much larger than D would turn noise into signal."""

STEPS = 24  # of the iteration below; a direction of a thousandth of the trace needs 13


@torch.no_grad()
def whiten(rows: Tensor, shrink: float = SHRINK) -> Tensor:
    """Rows (N, D) -> rows (N, D) of mean 0, and of covariance about 1 over all ranks; in float32 at
    least. Without gradients, and without waiting for the device.
    """
    wide = rows if rows.dtype == torch.float64 else rows.float()
    count, width = len(wide) * ranks(), wide.shape[1]
    with full_precision(rows):
        wide = wide - all_sum(wide.sum(0)) / count
        covariance = all_sum(wide.T @ wide) / count
        scale = covariance.diagonal().sum().clamp(min=torch.finfo(wide.dtype).tiny)
        unit = torch.eye(width, dtype=wide.dtype, device=wide.device)
        covariance = (1 - shrink) * covariance / scale + shrink / width * unit
        return wide @ _inverse_root(covariance, unit) * scale.rsqrt()


def _inverse_root(matrix: Tensor, unit: Tensor) -> Tensor:
    """matrix^(-1/2) of a symmetric one (D, D) whose trace is at most 1, by the coupled
    Newton-Schulz iteration (Higham 2008, Functions of Matrices, equation 6.35).
    """
    root, inverse = matrix, unit
    for _ in range(STEPS):
        step = 1.5 * unit - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse
