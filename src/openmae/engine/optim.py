"""AdamW with the paper's parameter groups, and the learning rate of each step (Table 8, section
A.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW


def param_groups(method: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and tokens are decayed, one-dimensional parameters (biases, norms) are
    not.

    cls_token and mask_token are three-dimensional and so decayed, as in the published pretraining.
    Frozen parameters (positions) are in neither.
    """
    trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    decayed = [(n, p) for n, p in trained if p.ndim > 1]
    exempt = [(n, p) for n, p in trained if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


def adamw(
    method: nn.Module,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    groups: list[dict[str, Any]] | None = None,
) -> AdamW:
    """Fused AdamW, which can skip a step on the device; `param_groups` by default.

    A group may hold "lr_scale", which the loop multiplies the learning rate with (layer decay).
    """
    groups = param_groups(method, weight_decay) if groups is None else groups
    return AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from zero, then half a cosine down to `end`, per step. Rates are absolute."""

    peak: float
    end: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        share = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.end + (self.peak - self.end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def absolute_lr(base: float, global_batch: int) -> float:
    """The linear rule: rates are stated per 256 images."""
    return base * global_batch / 256
