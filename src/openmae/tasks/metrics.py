"""Scores of a classifier, by scikit-learn, from its logits and the labels.

N images, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax
from sklearn import metrics as sk

from openmae.tasks.scoring import interval

Array = NDArray[Any]


def single_label(logits: Array, labels: Array, train_labels: Array | None) -> dict[str, Any]:
    """Logits (N, K) and labels (N,) -> accuracy with Wilson's 95 % interval, top-5 from 6 classes
    on, balanced accuracy, macro F1, cross-entropy without smoothing, and the majority class.
    """
    n, classes = logits.shape
    said = logits.argmax(axis=1)
    accuracy = float((said == labels).mean())
    low, high = interval(accuracy, n)
    values: dict[str, Any] = {"accuracy": accuracy, "low_95": low, "high_95": high, "n": n}
    if classes > 5:
        five = np.argpartition(-logits, 4, axis=1)[:, :5]
        values["accuracy_top5"] = float((five == labels[:, None]).any(axis=1).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted but do not occur
        values["balanced_accuracy"] = float(sk.balanced_accuracy_score(labels, said))
    present = np.unique(labels)
    values["macro_f1"] = float(
        sk.f1_score(labels, said, labels=present, average="macro", zero_division=0)
    )
    likelihood = log_softmax(logits.astype(np.float64), axis=1)
    values["loss"] = float(-likelihood[np.arange(n), labels].mean())
    if train_labels is not None:
        common = np.bincount(train_labels[train_labels >= 0]).argmax()
        values["majority_accuracy"] = float((labels == common).mean())
    return values


def multi_label(logits: Array, labels: Array) -> dict[str, Any]:
    """Logits and labels (N, K) -> mean average precision over the classes that occur, F1 at 0.5,
    the share of images with every label right, and the binary cross-entropy.
    """
    truth = labels > 0.5
    occur = truth.any(axis=0)
    precision = [
        sk.average_precision_score(truth[:, k], logits[:, k]) for k in np.flatnonzero(occur)
    ]
    said = logits > 0
    exact = float((said == truth).all(axis=1).mean())
    low, high = interval(exact, len(logits))
    score = np.clip(expit(logits.astype(np.float64)), 1e-12, 1 - 1e-12)
    loss = -(truth * np.log(score) + ~truth * np.log(1 - score)).mean()
    return {
        "mAP": float(np.mean(precision)) if precision else 0.0,
        "macro_f1": float(sk.f1_score(truth, said, average="macro", zero_division=0)),
        "micro_f1": float(sk.f1_score(truth, said, average="micro", zero_division=0)),
        "exact_match": exact,
        "exact_match_low_95": low,
        "exact_match_high_95": high,
        "loss": float(loss),
        "n": len(logits),
    }


def confusion(logits: Array, labels: Array) -> NDArray[np.int64]:
    """Counts (K, K): rows are the truth, columns what was said."""
    classes = range(logits.shape[1])
    table: NDArray[np.int64] = sk.confusion_matrix(labels, logits.argmax(axis=1), labels=classes)
    return table


def per_class(table: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: n, accuracy (recall), precision, F1, and what it is most mistaken for."""
    rows = []
    for k, name in enumerate(classes):
        right, n, said = int(table[k, k]), int(table[k].sum()), int(table[:, k].sum())
        wrong = table[k].copy()
        wrong[k] = 0
        worst = int(wrong.argmax())
        recall, precision = right / n if n else None, right / said if said else None
        f1 = 2 * right / (n + said) if n + said else None
        row = {"class": name, "n": n, "accuracy": recall, "precision": precision, "f1": f1}
        mistaken = {"mistaken_for": classes[worst], "times": int(wrong[worst])}
        rows.append(row | (mistaken if wrong[worst] else {"mistaken_for": "", "times": 0}))
    return rows


def per_label(logits: Array, labels: Array, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class of a multi-label problem: n, average precision, F1 at 0.5."""
    rows = []
    for k, name in enumerate(classes):
        truth, n = labels[:, k] > 0.5, int((labels[:, k] > 0.5).sum())
        precision = float(sk.average_precision_score(truth, logits[:, k])) if n else None
        f1 = float(sk.f1_score(truth, logits[:, k] > 0, zero_division=0)) if n else None
        rows.append({"class": name, "n": n, "average_precision": precision, "f1": f1})
    return rows
