"""A teacher that follows a student: an exponential moving average of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float, skipped: Tensor) -> None:
    """Move the parameters of a teacher to momentum * teacher + (1 - momentum) * student, on the
    device; where `skipped` is 1 they stay. Buffers are copied.
    """
    share = (1 - momentum) * (1 - skipped)
    theirs, ours = list(student.parameters()), list(teacher.parameters())
    for mine, other in zip(map(_own_part, ours), map(_own_part, theirs), strict=True):
        mine.add_((other - mine) * share.to(mine.dtype))
    for mine, other in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(torch.where(skipped.bool(), mine, other))


def _own_part(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter: its shard, where FSDP2 shares them out."""
    local = getattr(parameter, "to_local", None)
    part: Tensor = parameter.detach() if local is None else local().detach()
    return part
