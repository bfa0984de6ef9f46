"""Tiny methods of two views, and images for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from openmae.methods.byol import BYOL
from openmae.methods.mocov3 import MoCoV3
from openmae.methods.simclr import SimCLR

TWO_VIEWS: dict[str, Any] = {"simclr": SimCLR, "byol": BYOL, "mocov3": MoCoV3}
SIZE: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": 8,
    "patch_size": 4,
    "encoder_args": {"embed_dim": 16, "depth": 2, "num_heads": 2},
    "hidden": 32,
    "out": 8,
}


def tiny(name: str, seed: int = 0, **more: Any) -> Any:
    """A method of 16 dimensions and 2 blocks, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TWO_VIEWS[name](**(SIZE | more)).double()


def pairs(count: int = 8, seed: int = 1, noise: float = 0.3) -> Tensor:
    """Two noisy views (B, 2, 3, 8, 8) of images of large colour patches, normalised float64."""
    made = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 3, 2, 2, generator=made, dtype=torch.float64)
    images = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2).expand(-1, 2, -1, -1, -1)
    return images + noise * torch.randn(images.shape, generator=made, dtype=torch.float64)


def rand_at(progress: float) -> Any:
    """As much of a step's randomness as `after_step` reads."""
    return SimpleNamespace(step=0, progress=progress)


NOT_SKIPPED, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def train(method: Any, steps: int, first: int = 0, lr: float = 3e-3, optimizer: Any = None) -> Any:
    """Train on fresh noise each step; returns the losses and the optimizer."""
    method.train()
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    losses = []
    for step in range(first, first + steps):
        images = pairs(16, 5, 0.0) + 0.2 * torch.randn(
            16, 2, 3, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        out = method({"image": images})
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(rand_at(step / 1000), NOT_SKIPPED)
        losses.append(out["loss"].item())
    return losses, optimizer
