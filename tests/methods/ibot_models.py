"""A tiny iBOT in float64, and batches for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openmae.methods.ibot import IBOT
from openmae.randomness import Rand

SIZE: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": 8,
    "patch_size": 2,
    "encoder_args": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "hidden": 24,
    "bottleneck": 8,
    "out": 32,
    "local_crops": 2,
    "local_size": 4,
}
ROWS, LENGTH = 8, 16
SOUND, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def tiny(seed: int = 0, **more: Any) -> IBOT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IBOT(**(SIZE | more)).double()


def batch(seed: int = 1, rows: int = ROWS) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    image = torch.randn(rows, 2, 3, 8, 8, generator=made, dtype=torch.float64)
    local = torch.randn(rows, 2, 3, 4, 4, generator=made, dtype=torch.float64)
    return {"image": image, "local": local}


def rand(step: int = 0, progress: float = 0.5, first: int = 0, rows: int = ROWS) -> Rand:
    return Rand(seed=0, step=step, progress=progress, first=first, rows=rows)


def apart(method: IBOT) -> IBOT:
    """With a teacher that is not the student, and centres that are not 0."""
    with torch.no_grad():
        method.center.copy_(torch.linspace(-0.1, 0.1, 32))
        method.patch_center.copy_(torch.linspace(0.2, -0.1, 32))
        method.mask_token.fill_(0.3)
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    return method
