"""k-NN and linear probe: numbers against scikit-learn, scipy and plain numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from openmae.data.sources import open_split
from openmae.engine.features import Features
from openmae.tasks.scoring import interval, knn_accuracy, linear_probe, majority


def features(count: int, classes: int, seed: int, width: int = 12) -> Features:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    vectors = (3 + centres[labels] + rng.normal(size=(count, width)) * 1.2).astype(np.float32)
    return Features(vectors, labels, [f"{seed}/{i}" for i in range(count)])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("k", [1, 7, 20, 1000])
def test_knn_is_the_plain_formula(classes, k):
    train, test = features(90, classes, 1), features(60, classes, 2)
    a, b = (
        f.vectors.astype(np.float64) / np.linalg.norm(f.vectors.astype(np.float64), axis=1)[:, None]
        for f in (train, test)
    )
    similar = b @ a.T
    right = 0
    for row, label in zip(similar, test.labels, strict=True):
        nearest = np.argsort(-row)[:k]
        votes = np.zeros(classes)
        np.add.at(votes, train.labels[nearest], np.exp(row[nearest] / 0.07))
        right += votes.argmax() == label
    assert knn_accuracy(train, test, k) == pytest.approx(right / 60, abs=1e-12)
    assert 1 / classes < right / 60 < 1  # a test that everything or nothing passes shows nothing


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_probe_is_scikit_learns_own_pipeline(classes, l2):
    train, test = features(200, classes, 1), features(150, classes, 2)
    logistic = LogisticRegression(C=1 / (l2 * 200), max_iter=5000, tol=1e-8)
    pipeline = make_pipeline(StandardScaler(), logistic)
    pipeline.fit(train.vectors.astype(np.float64), train.labels)
    expected = pipeline.predict(test.vectors.astype(np.float64))
    probe = linear_probe(train, test, [l2])
    scores = (test.vectors - probe.mean) / probe.std @ probe.weight.T + probe.bias
    assert scores.shape == (150, classes)
    assert (scores.argmax(axis=1) == expected).mean() > 0.99
    assert probe.accuracy == pytest.approx((expected == test.labels).mean(), abs=0.011)
    assert probe.accuracy == pytest.approx((scores.argmax(axis=1) == test.labels).mean())


def test_the_penalty_is_chosen_without_the_test_images():
    train, test, other = features(200, 3, 1), features(50, 3, 2), features(50, 3, 3)
    assert linear_probe(train, test).l2 == linear_probe(train, other).l2


def test_constant_features_do_not_break_the_probe():
    train, test = features(60, 2, 1), features(60, 2, 2)
    train.vectors[:, 0] = test.vectors[:, 0] = 7
    assert np.isfinite(linear_probe(train, test).weight).all()


@pytest.mark.parametrize(("right", "n"), [(0, 1), (0, 40), (26, 40), (40, 40), (333, 360)])
def test_the_interval_is_wilsons(right, n):
    z = 1.959963984540054
    p, middle = right / n, (right / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = interval(right / n, n)
    assert low == pytest.approx(max(middle - half, 0), abs=1e-12)
    assert high == pytest.approx(min(middle + half, 1), abs=1e-12)


def test_majority_is_the_commonest_class_of_the_training_part():
    train = Features(np.zeros((4, 1), np.float32), np.array([2, 2, 2, 0]), list("abcd"))
    test = Features(np.zeros((4, 1), np.float32), np.array([0, 0, 0, 2]), list("abcd"))
    assert majority(train, test) == 0.25


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_class_folders_are_scored_beside_baselines(task, run, trained, classes, tmp_path):
    said = run(task, trained, classes, "--out", tmp_path / "score", "--seed", 3)
    results = json.loads((tmp_path / "score/results.json").read_text())
    names = {f"{task}_accuracy", f"random_weights_{task}_accuracy", f"raw_pixels_{task}_accuracy"}
    assert names | {"majority_accuracy", "n", "n_train", "seed"} <= results.keys()
    assert results["n"] + results["n_train"] == 30
    assert results["seed"] == 3
    low, high = interval(results[f"{task}_accuracy"], results["n"])
    assert (results[f"{task}_low_95"], results[f"{task}_high_95"]) == (low, high)
    for part in ("random weights", "raw pixels", "majority class", f"n={results['n']}", "seed 3"):
        assert part in said


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_train_and_test_folders_two_classes_and_no_baselines(
    task, run, trained, make_images, tmp_path
):
    for part, count in (("train", 8), ("val", 4)):
        for number, name in enumerate(("day", "night")):
            make_images(tmp_path / "data" / part / name, count, first=1000 * number + 50 * count)
    run(task, trained, tmp_path / "data", "--out", tmp_path / "score", "--no-baselines")
    results = json.loads((tmp_path / "score/results.json").read_text())
    assert (results["n_train"], results["n"]) == (16, 8)
    assert results["majority_accuracy"] == 0.5
    assert not [n for n in results if n.startswith(("random", "raw"))]


def test_a_score_of_a_run_is_kept_inside_the_run(run, trained, classes):
    run("knn", trained, classes, "--no-baselines")
    assert (trained / f"knn-{classes.name}" / "results.json").is_file()


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_a_table_in_place_of_class_folders(task, run, trained, classes, tmp_path):
    images = sorted(p.relative_to(classes).as_posix() for p in classes.rglob("*.png"))
    rows = [
        f"{name},{name.split('/')[0]},{'test' if i % 3 == 0 else 'train'}"
        for i, name in enumerate(images)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    run(task, trained, classes, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "score")
    results = json.loads((tmp_path / "score/results.json").read_text())
    assert results["n"] == len(images[::3])
    assert results["n"] + results["n_train"] == len(images)
    assert results["labels"] == str(tmp_path / "labels.csv")
    assert (results["pool"], results["layer"], results["norm"]) == ("mean", 1, "final")


def test_the_digits_are_scored_and_raw_pixels_are_as_scikit_learn_says(run, sized, tmp_path):
    folder = tmp_path / "run"
    options = sized("--image-size", 8, "--patch-size", 2, "--channels", 1)
    run("pretrain", "digits", "--out", folder, *options, "--steps", 2)
    run("knn", folder, "digits")
    results = json.loads((folder / "knn-digits/results.json").read_text())
    assert (results["n"], results["n_train"]) == (360, 1437)
    train, test = open_split("digits")
    x, y = (np.stack([s[i]["image"].ravel() for i in range(len(s))]) / 255 for s in (train, test))
    weights = {"weights": lambda distance: np.exp((1 - distance) / 0.07)}
    plain = KNeighborsClassifier(20, metric="cosine", **weights).fit(x, train.labels)
    expected = plain.score(y, test.labels)
    assert results["raw_pixels_knn_accuracy"] == pytest.approx(expected, abs=0.003)
    assert expected > 0.95
