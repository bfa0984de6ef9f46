"""A tiny iBOT in float64; its batches are those of DINO."""

from __future__ import annotations

from typing import Any

import torch
from dino_models import SIZE

from openmae.methods.ibot import IBOT

LENGTH = 16


def tiny(seed: int = 0, **more: Any) -> IBOT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IBOT(**(SIZE | more)).double()


def apart(method: IBOT) -> IBOT:
    """With a teacher that is not the student, and centres that are not 0."""
    with torch.no_grad():
        method.center.copy_(torch.linspace(-0.1, 0.1, 32))
        method.patch_center.copy_(torch.linspace(0.2, -0.1, 32))
        method.mask_token.fill_(0.3)
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    return method
