"""Fewer labelled images: a share or a number of each class, nested from one size to the next."""

from __future__ import annotations

import hashlib

import numpy as np

from openmae.data.sources import Source
from openmae.errors import DataError


def few_shot(
    source: Source, share: float | None = None, count: int | None = None, seed: int = 0
) -> Source:
    """`share` of the images of each class (at least one), or `count` of each, chosen by hash of
    seed and path: a smaller subset is part of a larger one of the same seed.

    Images of several labels are drawn as one class.

    Raises:
        DataError: a class has fewer than `count` images.
    """
    labels = np.asarray(source.labels)
    labels = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)
    order = sorted(range(len(source)), key=lambda i: _rank(seed, source.path(i)))
    chosen: list[int] = []
    for label in np.unique(labels):
        rows = [i for i in order if labels[i] == label]
        if count is not None and len(rows) < count:
            name = source.classes[label] if label < len(source.classes) else source.name
            raise DataError(f"{name} has {len(rows)} images, --fraction asks for {count}-per-class")
        wanted = count if count is not None else max(1, round((share or 1.0) * len(rows)))
        chosen += rows[:wanted]
    return source.subset(sorted(chosen))


def _rank(seed: int, path: str) -> bytes:
    words = f"{seed}/{path}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(words, digest_size=8).digest()
