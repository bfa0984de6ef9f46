"""mIoU and its relatives: by hand, and as scikit-learn computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from openmae.data.maskfile import Labels
from openmae.data.masklayouts import Pairs
from openmae.data.masks import MaskSource
from openmae.engine.distributed import World
from openmae.methods.segment import Segmenter
from openmae.report.maskpictures import colours_of, overlay
from openmae.tasks.segmentation import Test, classes_of, confusion_of, measures, per_class, score


def test_by_hand():
    truth = np.array([[0, 0, 1], [1, 1, -1]])
    said = np.array([[0, 1, 1], [1, 0, 2]])
    table = confusion_of(truth, said, 3)
    assert table.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    found = measures(table)
    assert found["mIoU"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert found["mAcc"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["aAcc"] == pytest.approx(3 / 5)
    rows = per_class(table, ["a", "b", "c"])
    assert rows[0] == {"class": "a", "iou": 1 / 3, "accuracy": 0.5, "precision": 0.5, "pixels": 2}
    assert rows[2] == {"class": "c", "iou": "", "accuracy": "", "precision": "", "pixels": 0}


def test_a_class_that_is_only_said_counts_as_wrong():
    found = measures(confusion_of(np.array([[0, 0]]), np.array([[0, 1]]), 2))
    assert found["mIoU"] == pytest.approx((1 / 2 + 0) / 2)
    assert found["mAcc"] == pytest.approx(1 / 2)


def test_nothing_labelled():
    assert measures(confusion_of(np.full((2, 2), -1), np.zeros((2, 2), int), 2)) == {
        "mIoU": 0.0, "mAcc": 0.0, "aAcc": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, said = rng.integers(0, 6, 400), rng.integers(0, 6, 400)
    said[:200] = truth[:200]
    table = confusion_of(truth, said, 6)
    assert np.array_equal(table, confusion_matrix(truth, said, labels=range(6)))
    found = measures(table)
    assert found["mIoU"] == pytest.approx(jaccard_score(truth, said, average="macro"))
    assert found["mAcc"] == pytest.approx(recall_score(truth, said, average="macro"))
    assert found["aAcc"] == pytest.approx(accuracy_score(truth, said))
    each = jaccard_score(truth, said, average=None)
    assert [r["iou"] for r in per_class(table, list("abcdef"))] == pytest.approx(list(each))


def test_colours_differ_and_are_the_datas_own_where_it_has_some():
    colours = colours_of(Labels(tuple(range(150)), 255))
    assert len({tuple(c) for c in colours.tolist()}) == 150
    assert colours[0].tolist() == [128, 0, 0]  # Pascal VOC's first class
    own = Labels((0, 1), 255, ((1, 2, 3), (4, 5, 6)))
    assert colours_of(own).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_overlays_leave_what_has_no_label():
    picture = np.full((1, 2, 3), 100, np.uint8)
    colours = np.array([[200, 0, 50]], np.uint8)
    found = overlay(picture, np.array([[0, -1]]), colours, 0.5)
    assert found.tolist() == [[[150, 50, 75], [100, 100, 100]]]


def test_ranks_share_the_images_and_agree(tmp_path):
    """Two ranks, one after the other: what each says is put together as `World.gather` does."""
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        Image.fromarray(rng.integers(0, 2, (16, 16), dtype=np.uint8)).save(tmp_path / f"{i}.bmp")
    (tmp_path / "3.bmp").write_bytes(b"broken")
    files = [str(i) for i in range(5)]
    pairs = Pairs(tmp_path, tmp_path, [f"{f}.png" for f in files], [[f"{f}.bmp"] for f in files])
    source = MaskSource(pairs, Labels((0, 1)), ["a", "b"])
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 1}
    torch.manual_seed(0)
    model = Segmenter("vit_tiny_patch16_224", ["a", "b"], 16, 8, 3, sizes, "linear")
    alone = score(model, source, Test())
    said: list[Any] = []

    class Rank(World):
        def gather(self, value: Any) -> list[Any]:
            said.append(value)
            return [value]

    for rank in (0, 1):
        score(model, source, Test(), Rank(rank, 2))
    parts = [np.array(part[0]) for part in said]
    assert np.array_equal(sum(parts), alone.confusion)
    assert [part[1] for part in said] == [3, 1]
    assert [path for part in said for path, _ in part[2]] == ["3.png"]
    assert (alone.n, alone.confusion.sum()) == (4, 4 * 256)


def test_images_are_resized_to_the_short_side_and_back():
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 1}
    model = Segmenter("vit_tiny_patch16_224", ["a", "b"], 16, 8, 3, sizes, "linear", short_side=16)
    seen = []
    model.logits = lambda x: seen.append(tuple(x.shape[-2:])) or x[:, :2]
    found = classes_of(model, np.zeros((64, 96, 3), np.uint8), Test(stride=8))
    assert found.shape == (64, 96)
    assert seen == [(16, 16)]  # windows of 16 x 24, two at a time
