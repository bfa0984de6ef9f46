"""LARS, layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), as the paper's linear
probe uses it (Table 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose step is scaled, matrix by matrix, to the size of the weights.

    For a parameter p of two or more dimensions with gradient g and momentum buffer mu:

        d  = g + weight_decay * p
        d  = d * trust * |p| / |d|        (no scaling where either norm is 0)
        mu = momentum * mu + d
        p  = p - lr * mu

    Vectors (biases, norms) take d = g: neither decayed nor scaled. The learning rate multiplies the
    buffer and is not part of it, so a schedule acts at once on all of the momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                change = p.grad if p.ndim <= 1 else _scaled(p, group["weight_decay"], group["trust"])
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(group["momentum"]).add_(change)
                p.sub_(group["lr"] * state["mu"])
        return loss


def _scaled(p: Tensor, weight_decay: float, trust: float) -> Tensor:
    change = p.grad + weight_decay * p
    weight, size = p.norm(), change.norm()
    ratio = torch.where((weight > 0) & (size > 0), trust * weight / size, torch.ones_like(size))
    return change * ratio
