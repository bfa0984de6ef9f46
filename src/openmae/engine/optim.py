"""AdamW with the paper's parameter groups, and the learning rate of each step (Table 8, section
A.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer


def param_groups(
    method: nn.Module, weight_decay: float, lr_scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Two groups: matrices and tokens are decayed, one-dimensional parameters (biases, norms) are
    not. Two more for each part of the method that `lr_scales` names (first part of a parameter's
    name -> multiple of the learning rate).

    cls_token and mask_token are three-dimensional and so decayed, as in the published pretraining.
    Frozen parameters (positions) are in none. "decays" marks what is decayed (see `set_rates`).
    """
    scales = dict(lr_scales or {})
    trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for part in (None, *scales):
        own = [(n, p) for n, p in trained if _part(n, scales) == part]
        decayed = [(n, p) for n, p in own if p.ndim > 1]
        exempt = [(n, p) for n, p in own if p.ndim <= 1]
        scale = {} if part is None else {"lr_scale": scales[part]}
        groups += [
            {"params": decayed, "weight_decay": weight_decay, "decays": True, **scale},
            {"params": exempt, "weight_decay": 0.0, **scale},
        ]
    return groups


def _part(name: str, scales: Mapping[str, float]) -> str | None:
    """The part of `scales` that a parameter is of, None where it is of none."""
    first = name.partition(".")[0]
    return first if first in scales else None


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


STEPS = (8 / 9, 26 / 27)
"""Of ViTDet: 163,889 and 177,546 of 184,375 iterations."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from zero, then down to `end`, per step: by half a cosine, or "poly": by the
    polynomial of power 1, a straight line. "step" knows no `end`: a tenth of the peak from 8/9 of
    the run on, a hundredth from 26/27 on, as of ViTDet. Rates are absolute.
    """

    peak: float
    end: float
    warmup: int
    total: int
    shape: str = "cosine"

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        if self.shape == "step":
            return self.peak * 0.1 ** sum(step >= part * self.total for part in STEPS)
        share = min((step - self.warmup) / max(self.total - self.warmup, 1), 1.0)
        left = 1 - share if self.shape == "poly" else 0.5 * (1 + math.cos(math.pi * share))
        return self.end + (self.peak - self.end) * left


def set_rates(
    optimizer: Optimizer, step: int, rate: Schedule, decay: Schedule | None = None
) -> None:
    """The learning rate of a step, times each group's "lr_scale"; and the weight decay, where it
    has a schedule, of the groups that are decayed. Both are functions of the step alone, and
    nothing is read from the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate(step) * group.get("lr_scale", 1.0)
        if decay is not None and group.get("decays"):
            group["weight_decay"] = decay(step)


def absolute_lr(base: float, global_batch: int) -> float:
    """The linear rule: rates are stated per 256 images."""
    return base * global_batch / 256
