"""Scores against hand-computed numbers; mCE against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from openmae.report.confusion import draw_confusion
from openmae.tasks.metrics import confusion, multi_label, per_class, per_label, single_label
from openmae.tasks.robustness import ALEXNET, find_corruptions, summary

LOGITS = np.log(np.array([[6, 3, 1], [1, 6, 3], [6, 3, 1], [1, 3, 6]], dtype=np.float32) / 10)
LABELS = np.array([0, 1, 1, 2])


def test_single_label_by_hand():
    found = single_label(LOGITS, LABELS, np.array([0, 0, 1, 2]))
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["loss"] == pytest.approx(-np.log([0.6, 0.6, 0.3, 0.6]).mean())
    assert found["majority_accuracy"] == 0.25
    assert "accuracy_top5" not in found
    low, high = binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert (found["low_95"], found["high_95"]) == (pytest.approx(low), pytest.approx(high))


def test_top5_needs_six_classes():
    logits = np.eye(6, dtype=np.float32) - 2 * np.eye(6, dtype=np.float32)[[1, 2, 3, 4, 5, 0]]
    found = single_label(logits, np.array([0, 1, 2, 3, 4, 0]), None)
    assert found["accuracy_top5"] == pytest.approx(5 / 6)
    assert "majority_accuracy" not in found


def test_per_class_by_hand():
    rows = per_class(confusion(LOGITS, LABELS), ["a", "b", "c"])
    assert rows[1] == {
        "class": "b", "n": 2, "accuracy": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3),
        "mistaken_for": "a", "times": 1,
    }  # fmt: skip
    assert rows[2]["mistaken_for"] == ""
    empty = per_class(np.zeros((2, 2), dtype=np.int64), ["a", "b"])[0]
    assert (empty["n"], empty["accuracy"], empty["f1"]) == (0, None, None)


def test_multi_label_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float32)
    logits = np.array([[2, -1, -1], [1, -1, -1], [-1, 3, 1]], dtype=np.float32)
    found = multi_label(logits, labels)
    assert found["mAP"] == pytest.approx((1.0 + (1 + 2 / 3) / 2) / 2)  # of two classes that occur
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    likelihood = -np.log(1 / (1 + np.exp(-np.where(labels > 0, logits, -logits))))
    assert found["loss"] == pytest.approx(likelihood.mean(), rel=1e-6)
    assert per_label(logits, labels, ["a", "b", "c"])[2]["average_precision"] is None


def test_mce_is_the_published_ratio():
    same = {name: dict.fromkeys(range(1, 6), error) for name, error in ALEXNET.items()}
    assert summary(same, 1000)["mCE"] == pytest.approx(100)
    half = {name: {s: e / 2 for s, e in levels.items()} for name, levels in same.items()}
    assert summary(half, 1000)["mCE"] == pytest.approx(50)
    extra = {**half, "spatter": dict.fromkeys(range(1, 6), 1.0)}
    assert summary(extra, 1000)["mCE"] == pytest.approx(50)
    assert summary(extra, 1000)["mean_corruption_error"] == pytest.approx(
        np.mean(list(ALEXNET.values())) / 2
    )
    assert len(ALEXNET) == 15
    assert np.mean(list(ALEXNET.values())) == pytest.approx(0.789, abs=0.0005)


def test_mce_needs_all_of_imagenet_c():
    same = {name: dict.fromkeys(range(1, 6), 0.5) for name in ALEXNET}
    assert "mCE" not in summary(same, 10)
    del same["fog"][3]
    assert "mCE" not in summary(same, 1000)


def test_layouts_of_corruptions(tmp_path):
    for name in ("noise/gaussian_noise", "fog"):
        for severity in (1, 2):
            (tmp_path / name / str(severity) / "ant").mkdir(parents=True)
    (tmp_path / "digits/1").mkdir(parents=True)  # a class folder that happens to be a number
    found = find_corruptions(tmp_path)
    assert {name: sorted(levels) for name, levels in found.items()} == {
        "gaussian_noise": [1, 2],
        "fog": [1, 2],
    }


@pytest.mark.parametrize("count", [2, 10, 40])
def test_the_picture_of_confusion(count, tmp_path):
    from PIL import Image

    table = np.random.default_rng(0).integers(0, 5, (count, count)) + 20 * np.eye(count, dtype=int)
    names = [f"a $class$ of_a_long name {i}" for i in range(count)]
    draw_confusion(table, names, tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    assert min(picture.size) > 200
    assert np.asarray(picture.convert("L")).std() > 5
