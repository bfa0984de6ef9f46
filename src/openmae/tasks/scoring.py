"""Scores of frozen features, by scikit-learn and scipy: k-NN, linear probe, majority class,
intervals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.engine.features import Features

PENALTIES = (1e-3, 1e-2, 1e-1)  # of the mean loss, per weight squared


def knn_accuracy(train: Features, test: Features, k: int = 20, temperature: float = 0.07) -> float:
    """k nearest neighbours by cosine similarity, with votes exp(similarity / temperature)."""
    from sklearn.neighbors import KNeighborsClassifier

    def weigh(distance: NDArray[Any]) -> NDArray[Any]:
        weights: NDArray[Any] = np.exp((1 - distance) / temperature)
        return weights

    k = min(k, len(train.vectors))
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh)
    classifier.fit(train.vectors, train.labels)
    return float(classifier.score(test.vectors, test.labels))


def majority(train: Features, test: Features) -> float:
    """Accuracy of always saying the commonest training class."""
    return float(np.mean(test.labels == np.bincount(train.labels).argmax()))


@dataclass(frozen=True)
class Probe:
    """BatchNorm without affine (mean, std) and a linear layer (weight (classes, D), bias), with the
    penalty chosen.
    """

    accuracy: float
    train_accuracy: float
    l2: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def linear_probe(
    train: Features, test: Features, penalties: Sequence[float] | None = None
) -> Probe:
    """Fit BatchNorm (affine=False, eps 1e-6) and a linear layer on frozen features (section A.1 of
    the paper).

    The statistics are those of all training features and the layer is fitted to its optimum
    (L-BFGS), so there is no learning rate to tune. The L2 penalty is the best on a tenth of the
    training images, chosen by hash of the path.
    """
    mean, std = (
        train.vectors.mean(axis=0, dtype=np.float64),
        train.vectors.std(axis=0, dtype=np.float64),
    )
    std = np.sqrt(std**2 + 1e-6)
    x, x_test = ((f.vectors - mean) / std for f in (train, test))
    chosen = _choose_penalty(x, train, penalties or PENALTIES)
    model = _fit(x, train.labels, chosen)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps one row
        weight, bias = (
            np.concatenate([-weight / 2, weight / 2]),
            np.concatenate([-bias / 2, bias / 2]),
        )
    scores = model.score(x_test, test.labels), model.score(x, train.labels)
    return Probe(float(scores[0]), float(scores[1]), chosen, mean, std, weight, bias)


def _choose_penalty(x: NDArray[Any], train: Features, penalties: Sequence[float]) -> float:
    if len(penalties) == 1:
        return penalties[0]
    aside = set_aside(train.paths)
    if not aside.any() or len(np.unique(train.labels[~aside])) < 2:
        return penalties[len(penalties) // 2]
    scores = [
        _fit(x[~aside], train.labels[~aside], l2).score(x[aside], train.labels[aside])
        for l2 in penalties
    ]
    best = max(scores)
    return max(l2 for l2, score in zip(penalties, scores, strict=True) if score == best)


def set_aside(paths: Sequence[str]) -> NDArray[np.bool_]:
    """A tenth of the images, by hash of the path: what settings are chosen on."""
    digests = (
        hashlib.blake2b(p.encode("utf-8", "surrogateescape"), digest_size=4).digest() for p in paths
    )
    return np.array([int.from_bytes(d, "big") % 10 == 0 for d in digests])


def _fit(x: NDArray[Any], labels: NDArray[Any], l2: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (l2 * len(x)), max_iter=1000, tol=1e-4)
    return model.fit(x.astype(np.float32), labels)  # half the time of float64


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy on n images."""
    from scipy.stats import binomtest

    low, high = binomtest(round(accuracy * n), n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)
