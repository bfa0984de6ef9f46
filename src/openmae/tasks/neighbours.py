"""What is near what among vectors of images: duplicates, nearest neighbours, a map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 1024  # compared with all others at a time

Vectors = NDArray[np.float32]


def unit(vectors: Vectors) -> Vectors:
    """Rows of length one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    out: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return out


def duplicates(vectors: Vectors, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs (i < j) whose cosine similarity reaches the threshold, the most alike first.

    Each number of the vectors is standardised over the set first: features of an MAE share a large
    common part, and with it images of all kinds look alike (859 pairs above 0.98 among 4,000 test
    images of CIFAR-10, 15 without it).
    """
    spread = vectors.std(axis=0)
    if spread.max(initial=0) > 1e-6 * np.abs(vectors).max(initial=0):  # else they are all the same
        vectors = (vectors - vectors.mean(axis=0)) / np.maximum(spread, 1e-6 * spread.max())
    rows = unit(vectors)
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(rows), _ROWS):
        similar = rows[start : start + _ROWS] @ rows.T
        for i, j in zip(*np.nonzero(similar >= threshold), strict=True):
            if start + i < j:
                pairs.append((int(start + i), int(j), float(min(similar[i, j], 1.0))))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def nearest(vectors: Vectors, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The `count` nearest others of each row: indices and cosine similarities, (N, count)."""
    rows, count = unit(vectors), min(count, len(vectors) - 1)
    found, near = [], []
    for start in range(0, len(rows), _ROWS):
        similar = rows[start : start + _ROWS] @ rows.T
        for i in range(len(similar)):
            similar[i, start + i] = -np.inf  # not itself
        order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        found.append(order)
        near.append(np.take_along_axis(similar, order, axis=1))
    return np.concatenate(found), np.concatenate(near)


def plane(vectors: Vectors, method: str, seed: int = 0) -> NDArray[np.float64]:
    """Vectors on a plane, (N, 2), by PCA or t-SNE (scikit-learn, on the first 50 components)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    centred = vectors - vectors.mean(axis=0)
    if method == "pca" or len(vectors) < 5:
        out: NDArray[np.float64] = PCA(2, svd_solver="full").fit_transform(centred)
        return out
    few = PCA(min(50, *vectors.shape), svd_solver="full").fit_transform(centred)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    found: NDArray[np.float64] = TSNE(
        2, perplexity=perplexity, init="pca", random_state=seed
    ).fit_transform(few)
    return found
