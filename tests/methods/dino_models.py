"""What tests of DINO and iBOT share: sizes, batches, the checks of continuation and ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gloo import in_ranks
from torch import Tensor

from openmae.methods.dino import DINO
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
ROWS = 8
SOUND, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def batch(seed: int = 1, rows: int = ROWS) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    image = torch.randn(rows, 2, 3, 8, 8, generator=made, dtype=torch.float64)
    local = torch.randn(rows, 2, 3, 4, 4, generator=made, dtype=torch.float64)
    return {"image": image, "local": local}


def rand(step: int = 0, progress: float = 0.5, first: int = 0, rows: int = ROWS) -> Rand:
    return Rand(seed=0, step=step, progress=progress, first=first, rows=rows)


def adam(method: DINO, lr: float = 1e-2) -> Any:
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)


def train(method: DINO, first: int, steps: int, optimizer: Any, data: Any = batch) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        out = method(data(step), rand(step, step / 100, first=step * ROWS))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(rand(step, step / 100), SOUND)
        losses.append(out["loss"].item())
    return losses


def goes_on(make: Callable[..., DINO]) -> dict[str, Tensor]:
    """A copy of the state goes on as the first would have; returns where both end."""
    method = make(norm_last_layer=False)
    optimizer = adam(method)
    train(method, 0, 3, optimizer)
    state, of_optimizer = (copy.deepcopy(x.state_dict()) for x in (method, optimizer))
    losses = train(method, 3, 3, optimizer)
    again = make(7, norm_last_layer=False)
    again.load_state_dict(state)
    fresh = adam(again)
    fresh.load_state_dict(of_optimizer)
    assert train(again, 3, 3, fresh) == losses
    end = method.state_dict()
    assert all(torch.equal(v, end[n]) for n, v in again.state_dict().items())
    return end


def step_of_a_rank(method: DINO, first: int, rows: int) -> dict[str, Tensor]:
    """The loss and the gradients of some rows of the global batch."""
    part = {n: v[first : first + rows] for n, v in batch().items()}
    out = method(part, rand(first=first, rows=rows))
    out["loss"].backward()
    method.after_step(rand(), SOUND)
    grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return {"loss": out["loss"].detach()} | grads


def are_one(of_rank: Callable[[int, int], dict[str, Tensor]], folder: Path, center: str) -> None:
    """Two ranks have, on average, the loss and the gradients of one; a centre has the same bits."""
    found = in_ranks(2, lambda r: of_rank(r * ROWS // 2, ROWS // 2), folder)
    for name, want in of_rank(0, ROWS).items():
        mean = torch.stack([one[name] for one in found]).mean(0)
        assert (mean - want).norm() <= 1e-12 * want.norm() + 1e-14, name
    assert torch.equal(found[0][center], found[1][center])
    assert found[0]["loss"] != found[1]["loss"]
