"""Where a part of a model needs more than autocast gives it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast is off on the device of `like`; the meta device has none."""
    if like.is_meta:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
