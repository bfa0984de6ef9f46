"""What the ranks of a batch share, with gradients: sums and rows of all of them.

Written with all-reduce alone, which gloo knows on the CPU too. Without ranks each is the identity.
Backward, the gradients of all ranks are added, so that the mean over ranks (as of DDP) of the
gradients of each rank's loss is the gradient of the mean of their losses. Every rank must call them
at the same place, with the same shapes.

B rows of this rank, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """How many ranks share a batch, R; 1 without any."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; its rows are B * rank ... B * (rank + 1) of the global batch."""
    return dist.get_rank() if ranks() > 1 else 0


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.first, ctx.rows = rank() * len(rows), len(rows)
        places = rows.new_zeros(ranks() * len(rows), *rows.shape[1:])
        places[ctx.first : ctx.first + ctx.rows] = rows
        return _summed(places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])[ctx.first : ctx.first + ctx.rows]


def _summed(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    if not total.is_meta:  # a model on the meta device is only looked at
        dist.all_reduce(total)
    return total


def all_sum(values: Tensor) -> Tensor:
    """The sum over ranks of a tensor of any shape, on every rank."""
    if ranks() == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


def all_max(values: Tensor) -> Tensor:
    """The largest over ranks of a tensor of any shape, on every rank, without gradients."""
    largest = values.detach().clone()
    if ranks() > 1 and not largest.is_meta:
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def all_mean(values: Tensor) -> Tensor:
    """The mean over ranks; of means over equal shares of a batch, the mean over the batch."""
    return all_sum(values) / ranks()


def all_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of each rank -> those of the global batch (R * B, ...), in its order, on every
    rank. B must be the same on all of them.
    """
    if ranks() == 1:
        return rows
    whole: Tensor = _Rows.apply(rows)
    return whole
