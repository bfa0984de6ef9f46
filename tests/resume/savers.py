"""A process that does nothing but save, and the method that it saves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from openmae.engine import checkpoint
from openmae.engine.ema import EMA
from openmae.engine.optim import adamw


def parts(fill: float) -> tuple[nn.Module, torch.optim.Optimizer, EMA]:
    """A method of 2 MB whose every number is `fill`, with AdamW moments."""
    method = nn.Linear(512, 512)
    with torch.no_grad():
        for p in method.parameters():
            p.fill_(fill)
    ema = EMA(method, 0.99)
    optimizer = adamw(method, 0.0, (0.9, 0.95), 0.0)
    for p in method.parameters():
        p.grad = torch.full_like(p, fill)
    optimizer.step()
    return method, optimizer, ema


def save_in_a_loop(folder: Path) -> None:
    """Save step after step, going on after the newest, until killed."""
    checkpoint.clean(folder)
    found, _ = checkpoint.latest(folder)
    method, optimizer, ema = parts(0.0)
    step = found.step if found else 0
    while True:
        step += 1
        with torch.no_grad():
            for tensor in [*method.parameters(), *ema.tensors().values()]:
                tensor.fill_(float(step))
        checkpoint.save(folder, step, method, optimizer, ema, {"seed": 0})
        checkpoint.prune(folder, 2)
