"""Mixup, CutMix and label smoothing of a training batch, by timm, as a function of the step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from timm.data.mixup import Mixup
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.mae import Randomness


class Mixing:
    """timm's Mixup in its batch mode: one coefficient, and one box, for the whole global batch.

    timm pairs row i with row B - 1 - i. Here neighbours are pairs, 2j with 2j + 1: the order of the
    data is random, so this is the same thing, and a pair is never parted by micro-batches or ranks
    of even size.
    """

    def __init__(
        self,
        classes: int,
        smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        prob: float = 1.0,
        multi_label: bool = False,
    ) -> None:
        self.classes, self.smoothing, self.multi_label = classes, smoothing, multi_label
        self.on = (mixup > 0 or cutmix > 0) and prob > 0
        if self.on and multi_label:
            raise UsageError("--multi-label cannot be mixed: --mixup 0 --cutmix 0")
        self._mixup = Mixup(mixup, cutmix, None, prob, 0.5, "batch", True, smoothing, classes)

    def targets(self, labels: Tensor) -> Tensor:
        """Labels (B,) -> smoothed targets (B, K) float32; labels (B, K) of many as they are."""
        if self.multi_label:
            return labels.float()
        off = self.smoothing / self.classes
        out = torch.full((len(labels), self.classes), off, device=labels.device)
        return out.scatter_(1, labels[:, None], 1 - self.smoothing + off)

    def __call__(self, images: Tensor, labels: Tensor, rand: Randomness) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) -> mixed images and targets (B, K)."""
        rows = len(images)
        if rows % 2:
            raise UsageError(
                f"Mixup and CutMix need an even number of images at a time, not {rows}"
            )
        half = torch.arange(0, rows, 2, device=images.device)
        pairs = torch.cat([half, half.flip(0) + 1])  # row i's partner is row rows - 1 - i
        with _seeded(rand.seed_of("mixup")):
            mixed, targets = self._mixup(images[pairs], labels[pairs])
        back = pairs.argsort()
        return mixed[back], targets[back].to(torch.float32)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """timm draws from numpy's global generator: seed it for a moment, then restore it."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
