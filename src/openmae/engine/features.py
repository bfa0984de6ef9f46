"""Frozen features of images: deterministic, never masked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openmae.engine.device import autocast
from openmae.engine.spread import Gather, Part
from openmae.errors import DataError


@dataclass
class Features:
    """One row an image: vectors (N, D) float32, labels (N,), paths, and the files that could not be
    read.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    paths: list[str]
    bad: list[tuple[str, str]] = field(default_factory=list)


class Views:
    """Features of `count` random views of the same images, each made when it is first read.

    Views that fit into `most` bytes together are kept; the others are made again whenever they are
    read, so that memory is bounded. `views[v]` has the same rows for every v.
    """

    def __init__(self, make: Callable[[int], Features], count: int = 1, most: float = 4e9) -> None:
        self.count, self.first = count, make(0)
        self._make, self._most = make, most
        self._kept = {0: self.first}
        self._last = (0, self.first)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) as of Features."""
        return self.first.labels

    @property
    def bytes(self) -> int:
        """What all views would take together."""
        return self.first.vectors.nbytes * self.count

    def __len__(self) -> int:
        return len(self.first.paths)

    def __getitem__(self, view: int) -> Features:
        """Features of a view.

        Raises:
            DataError: other images can be read than before.
        """
        if view in self._kept:
            return self._kept[view]
        if self._last[0] != view:
            self._last = (0, self.first)  # what it held is freed before the next is made
            self._last = (view, self._make(view))
            if self._last[1].paths != self.first.paths:
                raise DataError("the images changed while they were read. Run this again")
            if (len(self._kept) + 1) * self.first.vectors.nbytes <= self._most:
                self._kept[view] = self._last[1]
        return self._last[1]


def pool_tokens(tokens: Tensor, num_prefix_tokens: int, pool: str) -> Tensor:
    """Tokens (B, P + L, D) -> (B, D): the mean of patch tokens, or the class token."""
    if pool == "cls":
        if num_prefix_tokens == 0:
            raise DataError("this encoder has no class token. Use --pool mean")
        return tokens[:, 0]
    return tokens[:, num_prefix_tokens:].mean(dim=1)


@torch.inference_mode()
def extract(
    encoder: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    pool: str,
    device: torch.device,
    precision: str = "fp32",
    gather: Gather = iter,
) -> Features:
    """Run the encoder on every batch. `gather` adds what other ranks have, where there are any.

    Raises:
        DataError: no image could be read.
    """
    training = encoder.training
    encoder.eval()
    vectors, labels, paths, bad = [], [], [], []

    def parts() -> Iterator[Part]:
        for batch in batches:
            if batch["image"] is None:
                yield Part(bad=batch["bad"])
                continue
            with autocast(precision, device):
                tokens = encoder(batch["image"].to(device, non_blocking=True))
            pooled = pool_tokens(tokens, encoder.num_prefix_tokens, pool)  # type: ignore[arg-type]
            yield Part(pooled.float().cpu().numpy(), batch["label"], batch["path"], batch["bad"])

    for part in gather(parts()):
        bad += part.bad
        if part.values is not None:
            vectors.append(part.values)
            labels += part.labels
            paths += part.paths
    encoder.train(training)
    if not vectors:
        raise DataError(
            "no image could be read" + (f". First: {bad[0][0]}: {bad[0][1]}" if bad else "")
        )
    return Features(np.concatenate(vectors), np.array(labels, dtype=np.int64), paths, bad)
