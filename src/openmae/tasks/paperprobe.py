"""The paper's linear probe (section A.1, Table 10): a layer trained with LARS on frozen features.

N images, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openmae.engine.features import Features, Views
from openmae.engine.lars import LARS
from openmae.engine.optim import Schedule, absolute_lr
from openmae.randomness import permutation, torch_seed
from openmae.tasks.scoring import set_aside

_ROWS = 8192  # images scored at a time


@dataclass(frozen=True)
class Protocol:
    """What the probe is told; the defaults are the paper's. Rates are per 256 images."""

    epochs: int = 90
    warmup_epochs: int = 10
    lr: tuple[float, ...] = (0.1,)
    batch: int = 16384
    seed: int = 0


@dataclass(frozen=True)
class PaperProbe:
    """Scores on the test part and on the first view of the training part, the base rate that was
    used, and what each of several rates scored on the images set aside.
    """

    accuracy: float
    top5: float
    train_accuracy: float
    lr: float
    tried: dict[float, float]


def paper_probe(
    train: Views, test: Features, told: Protocol, device: torch.device | None = None
) -> PaperProbe:
    """Train BatchNorm (affine=False, eps 1e-6) and a linear layer with LARS; epoch e reads view e
    modulo `train.count`.

    Several rates are trained side by side, and the one that is best on a tenth of the training
    images, set aside by hash of the path, is trained again on all: the lowest of equals, or the
    middle one where there are too few images to set aside.
    """
    device = device or torch.device("cpu")
    everything = np.arange(len(train))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    rate, tried = told.lr[0], {}
    if len(told.lr) > 1:
        rates, aside = sorted(told.lr), set_aside(train.first.paths)
        rate = rates[len(rates) // 2]
        if aside.any() and len(np.unique(train.labels[~aside])) > 1:
            norm, heads = _fit(train, everything[~aside], classes, told, rates, device)
            scores = [_right(norm, h, train.first, everything[aside], 1) for h in heads]
            tried = dict(zip(rates, scores, strict=True))
            rate = rates[int(np.argmax(scores))]
    norm, (head,) = _fit(train, everything, classes, told, (rate,), device)
    tested = np.arange(len(test.paths))
    return PaperProbe(
        _right(norm, head, test, tested, 1),
        _right(norm, head, test, tested, 5),
        _right(norm, head, train.first, everything, 1),
        rate,
        tried,
    )


def batch_of(images: int, batch: int) -> int:
    """The batch of the probe: an eighth of the images where there are few, so that an epoch has
    some steps.
    """
    return max(2, min(batch, images // 8)) if images >= 16 else images


def _fit(
    train: Views,
    chosen: NDArray[np.int64],
    classes: int,
    told: Protocol,
    rates: Sequence[float],
    device: torch.device,
) -> tuple[nn.Module, list[nn.Linear]]:
    """The norm and, for each rate, a head trained on the chosen rows; all see the same batches."""
    batch = batch_of(len(chosen), told.batch)
    steps = max(1, len(chosen) // batch)
    norm, heads = _start(train.first.vectors.shape[1], classes, len(rates), told.seed, device)
    optimizer = LARS([{"params": list(head.parameters())} for head in heads], lr=0.0)
    schedules = [
        Schedule(absolute_lr(r, batch), 0.0, told.warmup_epochs * steps, told.epochs * steps)
        for r in rates
    ]
    for epoch in range(told.epochs):
        view = train[epoch % train.count]
        order = chosen[permutation(told.seed, epoch, len(chosen))]
        for number in range(steps):
            ids = order[number * batch : (number + 1) * batch]
            x = norm(torch.from_numpy(view.vectors[ids]).to(device))
            y = torch.from_numpy(view.labels[ids]).to(device)
            torch.stack([F.cross_entropy(head(x), y) for head in heads]).sum().backward()
            for group, schedule in zip(optimizer.param_groups, schedules, strict=True):
                group["lr"] = schedule(epoch * steps + number)
            optimizer.step()
            optimizer.zero_grad()
    return norm.eval(), heads


def _start(
    width: int, classes: int, count: int, seed: int, device: torch.device
) -> tuple[nn.Module, list[nn.Linear]]:
    """BatchNorm and heads that all start alike: weights N(0, 0.01), biases 0."""
    norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
    with torch.random.fork_rng(devices=[]):
        heads = [nn.Linear(width, classes) for _ in range(count)]
        for head in heads:
            torch.manual_seed(torch_seed(seed, "probe-head", 0))
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
    return norm.to(device), [head.to(device) for head in heads]


@torch.no_grad()
def _right(
    norm: nn.Module, head: nn.Linear, features: Features, rows: NDArray[np.int64], among: int
) -> float:
    """Share of the rows whose class is among the first answers."""
    right, device = 0, head.weight.device
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        logits: Tensor = head(norm(torch.from_numpy(features.vectors[part]).to(device)))
        found = logits.topk(min(among, logits.shape[1]), dim=1).indices.cpu()
        right += int((found == torch.from_numpy(features.labels[part])[:, None]).sum())
    return right / len(rows)
