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

    The running statistics move in `commit`, when the step is known to be sound. A batch whose
    statistics are not finite leaves them as they were.
    """

    left: Tensor
    new_mean: Tensor
    new_var: Tensor
    new_batches: Tensor

    def __init__(self, features: int, affine: bool = True) -> None:
        super().__init__(features, affine=affine)
        # since the last commit: the share of the running statistics that stays, what is added to
        # them, and the number of batches
        self.register_buffer("left", torch.ones(()), persistent=False)
        self.register_buffer("new_mean", torch.zeros(features), persistent=False)
        self.register_buffer("new_var", torch.zeros(features), persistent=False)
        self.register_buffer("new_batches", torch.tensor(0), persistent=False)

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
        assert self.momentum is not None
        self.new_batches.add_(finite)
        for kept, to in ((self.left, 0 * self.left), (self.new_mean, mean), (self.new_var, var)):
            moved = torch.lerp(kept, to.to(kept.dtype), self.momentum)
            kept.copy_(torch.where(finite, moved, kept))

    @torch.no_grad()
    def commit(self, skipped: Tensor) -> None:
        """Move the running statistics by the batches since the last commit, on the device; where
        `skipped` is 1 they stay, and the batches are forgotten.
        """
        sound = 1 - skipped
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(self.new_batches * sound.to(torch.int64))
        for kept, new in ((self.running_mean, self.new_mean), (self.running_var, self.new_var)):
            assert kept is not None
            kept.copy_(torch.where(skipped.bool(), kept, kept * self.left + new))
            new.zero_()
        self.new_batches.zero_()
        self.left.fill_(1)


def commit(module: nn.Module, skipped: Tensor) -> None:
    """`BatchNorm.commit` of all layers of a module."""
    for layer in module.modules():
        if isinstance(layer, BatchNorm):
            layer.commit(skipped)


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
