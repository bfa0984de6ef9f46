"""Tensors of which every rank holds a part: made whole, and taken apart again, one at a time.

Names are equal in all layouts, so a checkpoint is one file whatever wrote it. `whole` is a
collective: all ranks call it for the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard


def is_sharded(method: nn.Module) -> bool:
    """Whether ranks hold parts of the parameters (FSDP2)."""
    return any(isinstance(p, DTensor) for p in method.parameters())


def local(tensor: Tensor) -> Tensor:
    """The part that this rank holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Wholes:
    """(name, whole tensor) of named tensors, one in memory at a time. `finish` goes through those
    that nobody asked for, since the other ranks wait to give their parts.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.named = list(named)
        self._at = 0

    def __len__(self) -> int:
        return len(self.named)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        while self._at < len(self.named):
            name, tensor = self.named[self._at]
            self._at += 1
            yield name, whole(tensor)

    def finish(self) -> None:
        """Give the parts of the rest."""
        if any(isinstance(t, DTensor) for _, t in self.named[self._at :]):
            for _ in self:
                pass


@torch.no_grad()
def fill(own: Tensor, full: Tensor) -> None:
    """Copy a whole tensor, or the part of it that this rank holds; no collective."""
    if not isinstance(own, DTensor):
        own.copy_(full)
        return
    part = full
    for axis, placement in enumerate(own.placements):
        if isinstance(placement, Shard):
            mesh = own.device_mesh
            parts = part.chunk(mesh.size(axis), dim=placement.dim)
            at = mesh.get_local_rank(axis)
            empty = part.narrow(placement.dim, 0, 0)
            part = parts[at] if at < len(parts) else empty
        elif not isinstance(placement, Replicate):
            raise ValueError(f"no such layout: {placement}")
    own.to_local().copy_(part)


def total_norm(grads: list[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, of whole tensors or of parts; on the device."""
    norm = torch.nn.utils.get_total_norm([local(g) for g in grads])
    sharded = next((g for g in grads if isinstance(g, DTensor)), None)
    if sharded is None:
        return norm
    square = norm * norm
    for axis, placement in enumerate(sharded.placements):
        if isinstance(placement, Shard):
            dist.all_reduce(square, group=sharded.device_mesh.get_group(axis))
    return square.sqrt()


@torch.no_grad()
def clip(grads: list[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients in place so that their norm is at most `limit`; as torch's own."""
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    parts: list[Any] = [local(g) for g in grads]
    torch._foreach_mul_(parts, factor)
