"""A method of a few numbers, and runs of it without data, files or threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.engine.ema import EMA
from openmae.engine.loop import Plan, State
from openmae.engine.optim import Schedule, adamw
from openmae.engine.runfolder import RunFolder
from openmae.randomness import uniforms

ROWS = 8


class Tiny(nn.Module):
    """A linear map and a buffer; the loss is the mean square of its output, noise included."""

    def __init__(self, inside: int = 4, out: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(inside, out)
        self.register_buffer("scale", torch.full((out,), 1.5))
        self.arguments: dict[str, Any] = {}

    def forward(self, batch: dict[str, Any], rand: Any) -> dict[str, Tensor]:
        x = batch["image"].to(self.linear.weight.dtype)
        noise = rand.uniform("noise", (len(x), 3)).to(x.dtype)
        each = ((self.linear(x) * self.scale + noise) ** 2).mean(dim=1)
        return {"loss": each.mean(), "sample_loss": each.detach()}


def state(seed: int = 0, decay: float | None = 0.9, lr: float = 0.1) -> State:
    """A method with its optimizer and averages, before the first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = Tiny()
    optimizer = adamw(method, lr, (0.9, 0.95), 0.05)
    return State(method, optimizer, EMA(method, decay) if decay else None)


def plan(**more: Any) -> Plan:
    total = more.pop("total", 12)
    values: dict[str, Any] = {
        "total": total,
        "global_batch": ROWS,
        "micro_batch": ROWS,
        "schedule": Schedule(0.1, 0.0, 0, total),
        "seed": 0,
        "device": torch.device("cpu"),
        "precision": "fp32",
        "epoch_images": 100,
        "log_every": 1,
        "save_every": 4,
        "record": {"seed": 0},
    }
    return Plan(**values | more)


def batch(step: int, nan_row: int | None = None) -> dict[str, Any]:
    """The batch of a step; one row can be poisoned."""
    image = torch.from_numpy(uniforms(0, "image", step * ROWS, 4, ROWS)).float()
    if nan_row is not None:
        image[nan_row, 0] = float("nan")
    names = [f"{step}/{row}.png" for row in range(ROWS)]
    return {"image": image, "path": names, "id": list(range(ROWS)), "bad": []}


def batches(start: int = 0, poisoned: frozenset[int] = frozenset()) -> Iterator[dict[str, Any]]:
    step = start
    while True:
        yield batch(step, 2 if step in poisoned else None)
        step += 1


def run_folder(path: Path) -> RunFolder:
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def bits(of: State) -> dict[str, Tensor]:
    """Copies of everything that training changes."""
    from openmae.engine import checkpoint

    named = checkpoint.weights(of.method, of.ema)
    named += checkpoint.optimizer_tensors(of.method, of.optimizer)
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_equal_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
