"""LARS (You et al. 2017), the optimiser of the published linear probe (Table 10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose gradient is scaled, for each matrix, by trust * |p| / |g|.

    With weight decay the gradient is g + decay * p before the scaling. One-dimensional parameters
    have neither: u = m * u + g; p = p - lr * u.
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
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._scaled(parameter, parameter.grad, group)
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(update)
                parameter.sub_(state["momentum"], alpha=group["lr"])

    @staticmethod
    def _scaled(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if parameter.ndim <= 1:
            return gradient
        gradient = gradient + group["weight_decay"] * parameter
        own, size = parameter.norm(), gradient.norm()
        ratio = torch.where((own > 0) & (size > 0), group["trust"] * own / size, 1.0)
        return gradient * ratio
