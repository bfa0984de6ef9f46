"""The paper's linear probe (section A.1, Table 10) on features that are kept in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openmae.engine.features import Features
from openmae.engine.lars import LARS
from openmae.engine.optim import Schedule, absolute_lr
from openmae.randomness import permutation
from openmae.tasks.scoring import set_aside


@dataclass(frozen=True)
class Protocol:
    """What the probe is told; the defaults are the paper's. Rates are per 256 images."""

    epochs: int = 90
    warmup_epochs: int = 10
    lr: tuple[float, ...] = (0.1,)
    batch: int = 16384
    views: int = 1
    seed: int = 0


@dataclass(frozen=True)
class PaperProbe:
    """Scores on the test part, and the base rate that was used."""

    accuracy: float
    top5: float
    train_accuracy: float
    lr: float


def paper_probe(train: Features, test: Features, told: Protocol) -> PaperProbe:
    """Train BatchNorm (affine=False, eps 1e-6) and a linear layer with LARS; `train` holds `views`
    features of every image, one view after the other, and epoch e reads view e modulo `views`.

    Of several rates the one that is best on a tenth of the training images, set aside by hash of
    the path, is trained again on all.
    """
    rate = told.lr[0]
    if len(told.lr) > 1:
        aside = set_aside(train.paths)
        single = len(train.paths) // told.views
        first = np.arange(len(train.paths)) < single
        scores = _fit(_part(train, ~aside), _part(train, aside & first), told, told.lr)
        rate = told.lr[int(np.argmax([s[0] for s in scores]))]
    accuracy, top5, own = _fit(train, test, told, (rate,))[0]
    return PaperProbe(accuracy, top5, own, rate)


def _part(features: Features, rows: NDArray[np.bool_]) -> Features:
    paths = [p for p, chosen in zip(features.paths, rows.tolist(), strict=True) if chosen]
    return Features(features.vectors[rows], features.labels[rows], paths)


def batch_of(images: int, batch: int) -> int:
    """The batch of the probe: an eighth of the images where there are few, so that an epoch has
    some steps.
    """
    return max(2, min(batch, images // 8)) if images >= 16 else images


def _fit(
    train: Features, test: Features, told: Protocol, rates: Sequence[float]
) -> list[tuple[float, float, float]]:
    """(top-1, top-5, training top-1) of a head for each rate, trained side by side."""
    vectors, labels = torch.from_numpy(train.vectors), torch.from_numpy(train.labels)
    images = len(vectors) // told.views
    batch = batch_of(images, told.batch)
    steps = max(1, images // batch)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(told.seed)
        norm = nn.BatchNorm1d(vectors.shape[1], affine=False, eps=1e-6)
        heads = [nn.Linear(vectors.shape[1], classes) for _ in rates]
        first = heads[0].weight  # all heads start alike
        nn.init.normal_(first, std=0.01)
        for head in heads:
            head.weight.data.copy_(first)
            nn.init.zeros_(head.bias)
    optimizer = LARS([{"params": list(head.parameters())} for head in heads], lr=0.0)
    schedules = [
        Schedule(absolute_lr(r, batch), 0.0, told.warmup_epochs * steps, told.epochs * steps)
        for r in rates
    ]
    for epoch in range(told.epochs):
        order = torch.from_numpy(permutation(told.seed, epoch, images))
        rows = order + (epoch % told.views) * images
        for number in range(steps):
            ids = rows[number * batch : (number + 1) * batch]
            x, y = norm(vectors[ids]), labels[ids]
            loss = torch.stack([F.cross_entropy(head(x), y) for head in heads]).sum()
            loss.backward()
            for group, schedule in zip(optimizer.param_groups, schedules, strict=True):
                group["lr"] = schedule(epoch * steps + number)
            optimizer.step()
            optimizer.zero_grad()
    norm.eval()
    return [_scores(norm, head, train, test) for head in heads]


@torch.no_grad()
def _scores(
    norm: nn.Module, head: nn.Module, train: Features, test: Features
) -> tuple[float, float, float]:
    def right(features: Features, among: int) -> float:
        logits: Tensor = head(norm(torch.from_numpy(features.vectors)))
        found = logits.topk(min(among, logits.shape[1]), dim=1).indices
        hit = (found == torch.from_numpy(features.labels)[:, None]).any(dim=1)
        return float(hit.float().mean())

    scores = right(test, 1), right(test, 5), right(train, 1)
    assert not any(math.isnan(score) for score in scores)
    return scores
