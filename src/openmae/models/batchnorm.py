"""Batch normalisation over the global batch: torch's SyncBatchNorm, but also on the CPU.

N rows, D features.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from openmae.models.gathering import all_sum, ranks
from openmae.models.precision import full_precision


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d of features (N, D), with its names; in training, mean and variance are those of
    the rows of all ranks. Computed in float32 at least.

    A batch whose statistics are not finite leaves the running ones as they were.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Features (N, D) -> (N, D) of the same type."""
        wide = input if input.dtype == torch.float64 else input.float()
        with full_precision(input):
            if self.training:
                mean, var = self._statistics(wide)
            else:
                assert self.running_mean is not None
                assert self.running_var is not None
                mean, var = self.running_mean, self.running_var
            out = (wide - mean) * torch.rsqrt(var + self.eps)
            if self.affine:
                out = torch.addcmul(self.bias, out, self.weight)
        return out.to(input.dtype)

    def _statistics(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        count = len(rows) * ranks()
        if count < 2:
            raise ValueError("batch normalisation needs two images at least in a batch")
        mean = all_sum(rows.sum(0)) / count
        var = all_sum((rows - mean).square().sum(0)) / count
        self._keep(mean.detach(), var.detach() * (count / (count - 1)))
        return mean, var

    @torch.no_grad()
    def _keep(self, mean: Tensor, var: Tensor) -> None:
        finite = (torch.isfinite(mean) & torch.isfinite(var)).all()
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(finite.to(torch.int64))
        for kept, new in ((self.running_mean, mean), (self.running_var, var)):
            assert kept is not None
            moved = torch.lerp(kept, new.to(kept.dtype), self.momentum)
            kept.copy_(torch.where(finite, moved, kept))


def head(sizes: list[int], last_norm: bool = True, last_affine: bool = False) -> nn.Sequential:
    """Linear layers of `sizes` (in, hidden ..., out), each but the last with BatchNorm and ReLU,
    without biases, as of MoCo v3 and SimCLR.

    Args:
        last_norm: whether a BatchNorm ends it.
        last_affine: whether that one has weights.
    """
    layers: list[nn.Module] = []
    last = len(sizes) - 2
    for at, (wide, out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(wide, out, bias=False))
        if at < last:
            layers += [BatchNorm(out), nn.ReLU(inplace=True)]
        elif last_norm:
            layers.append(BatchNorm(out, affine=last_affine))
    return nn.Sequential(*layers)
