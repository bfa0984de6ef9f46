"""The order of a run: permutations, weights, repeats, mixtures; pure functions all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.data.loader import TrainBatches, loader
from openmae.data.mixed import MixedSource, parse_mix
from openmae.data.order import Order, weighted
from openmae.data.source import ArraySource
from openmae.data.sources import Cached
from openmae.data.transforms import TrainTransform
from openmae.data.weights import balanced_weights, weigh
from openmae.errors import DataError, UsageError

SIZES = (40, 8, 2)


def source(sizes=SIZES, name="x", seed=0) -> ArraySource:
    images = np.random.default_rng(seed).integers(0, 256, (sum(sizes), 9, 9, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return ArraySource(name, images, labels, [f"c{i}" for i in range(len(sizes))])


def epoch_of(order: Order, epoch: int) -> list[int]:
    return [order(epoch * order.length + i) for i in range(order.length)]


def test_without_weights_it_is_a_permutation():
    order = Order(3, 50)
    assert sorted(epoch_of(order, 0)) == sorted(epoch_of(order, 7)) == list(range(50))
    assert epoch_of(order, 0) != epoch_of(order, 1)


def test_equal_weights_are_a_permutation_too():
    assert sorted(weighted(3, 5, np.full(50, 0.3))) == list(range(50))


@pytest.mark.parametrize("epoch", [0, 1, 20])
def test_no_image_is_a_draw_away_from_its_share(epoch):
    weights = np.random.default_rng(1).random(200)
    counts = np.bincount(weighted(0, epoch, weights), minlength=200)
    share = 200 * weights / weights.sum()
    assert (np.abs(counts - share) < 1).all()


def test_over_many_epochs_each_image_has_its_share():
    weights = np.random.default_rng(1).random(20)
    counts = sum(np.bincount(weighted(0, e, weights), minlength=20) for e in range(500))
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=3e-3)


def test_an_image_of_weight_zero_is_never_drawn():
    weights = np.array([0.0, 1, 0, 1, 0])
    assert {i for e in range(50) for i in weighted(2, e, weights).tolist()} == {1, 3}


def test_copies_do_not_stand_in_a_row():
    drawn = weighted(0, 0, np.array([100.0, *[1] * 99]))
    at = np.flatnonzero(drawn == 0)
    assert 45 < len(at) < 55
    assert np.diff(at).max() > 3


def test_any_position_alone():
    weights = np.arange(1, 12, dtype=float)
    stream = [Order(1, 11, weights)(p) for p in range(44)]
    order = Order(1, 11, weights)
    assert [order(p) for p in reversed(range(44))] == stream[::-1]


def test_balanced():
    found = weigh(source(), "balanced")
    assert np.allclose(balanced_weights(source()), found.weights)
    counts = np.zeros(3)
    order = Order(0, 50, found.weights)
    for e in range(6):
        drawn = np.bincount(found.labels[epoch_of(order, e)], minlength=3)
        assert (np.abs(drawn - 50 / 3) < 1).all()
        counts += drawn
    part = found.subset(range(0, 50, 2))
    np.testing.assert_array_equal(part.weights, found.weights[::2])
    assert list(found.listing()) != list(source().listing())


def test_a_table_of_weights(tmp_path):
    table = tmp_path / "w.csv"
    paths = [source().path(i) for i in range(50)]
    lines = [f"{p},{i % 3}" for i, p in enumerate(paths)]
    table.write_text("\n".join(["path,weight", *lines]))
    assert weigh(source(), str(table)).weights.tolist() == [i % 3 for i in range(50)]
    again = source().subset([1, 5]).weighed(np.array([2.0, 3.0]))
    assert weigh(again, str(table)).weights.tolist() == [2.0, 6.0]


MISTAKES = {
    "column": ("path,w\nx/0000,1", "no column 'weight'"),
    "missing": ("path,weight\nx/0000,1", "49 of 50 images have no weight .first: x/0001."),
    "negative": ("path,weight\nx/0000,-1", "line 2: the weight is '-1'"),
    "word": ("path,weight\nx/0000,many", "line 2"),
    "empty": ("", "it has: nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_tables(name, tmp_path):
    text, message = MISTAKES[name]
    (tmp_path / "w.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        weigh(source(), str(tmp_path / "w.csv"))


def test_other_mistakes(tmp_path):
    with pytest.raises(DataError, match="uniform, balanced or a CSV"):
        weigh(source(), "balance")
    with pytest.raises(DataError, match="no classes to balance"):
        weigh(source((5,)), "balanced")
    table = tmp_path / "w.csv"
    table.write_text("\n".join(["path,weight", *[f"x/{i:04d},0" for i in range(50)]]))
    with pytest.raises(DataError, match="all weights are 0"):
        weigh(source(), str(table))


def batches_of(images, **more) -> TrainBatches:
    return TrainBatches(images, TrainTransform((8, 8), seed=1), 1, 12, **more)


@pytest.mark.parametrize("wrap", [lambda s: s, Cached])
@pytest.mark.parametrize("repeats", [1, 4])
def test_workers_and_ranks_change_nothing(repeats, wrap):
    images = wrap(weigh(source(), "balanced"))
    whole = batches_of(images, repeats=repeats)
    plain = [whole[step] for step in range(2, 9)]
    worked = list(loader(batches_of(images, repeats=repeats), range(2, 9), 2))
    ranks = [batches_of(images, repeats=repeats, rank=r, world=2) for r in range(2)]
    for step, (a, b) in enumerate(zip(plain, worked, strict=True), 2):
        assert torch.equal(a["image"], b["image"])
        assert a["id"] == b["id"] == [i for rank in ranks for i in rank[step]["id"]]
    labels = torch.cat([batch["label"] for batch in plain])
    assert labels.bincount(minlength=3).min() > 10


def test_repeats_are_crops_of_one_image_that_is_read_once():
    class Counting(ArraySource):
        read = 0

        def row_image(self, row):
            Counting.read += 1
            return super().row_image(row)

    plain = source()
    images = Counting("x", plain.images, plain.table_labels, plain.classes)
    batch = batches_of(images, repeats=4)[3]
    assert batch["id"] == [i for i in batch["id"][::4] for _ in range(4)]
    assert not torch.equal(batch["image"][0], batch["image"][1])
    assert Counting.read == 3
    whole = [i for step in range(50) for i in batches_of(images, repeats=4)[step]["id"]]
    assert sorted(set(whole[:200])) == list(range(50))


def test_a_mixture_has_its_shares():
    one, two = source((30, 30), "one"), source((10, 5), "two", seed=1)
    mixed = MixedSource([one, two], [0.6, 0.4])
    assert (len(mixed), mixed.classes) == (75, ["c0", "c1"])
    assert mixed.path(0) == "1:one/0000"
    assert mixed.path(74) == "2:two/0014"
    np.testing.assert_array_equal(mixed[70]["image"], two[10]["image"])
    assert mixed.labels.tolist() == one.labels.tolist() + two.labels.tolist()
    order = Order(0, 75, mixed.weights)
    for e in range(5):
        from_two = sum(i >= 60 for i in epoch_of(order, e))
        assert abs(from_two - 30) <= 1
    part = mixed.subset([3, 64])
    assert [part.path(i) for i in range(2)] == ["1:one/0003", "2:two/0004"]


def test_a_mixture_keeps_weights_within_its_sources():
    one = weigh(source((30, 10), "one"), "balanced")
    mixed = MixedSource([one, source((10, 10), "two")], [0.5, 0.5])
    weights = mixed.weights
    assert weights[:30].sum() == pytest.approx(0.25)
    assert weights[30:40].sum() == pytest.approx(0.25)
    assert weights.sum() == pytest.approx(1)


def test_shares_as_they_are_typed():
    assert parse_mix(["a/b=c=0.25", "d=0.5"]) == [("a/b=c", 0.25), ("d", 0.5)]
    for words in (["a"], ["a=1"], ["a=x"], ["=0.5"], ["a=0"], ["a=0.5", "b=0.5"]):
        with pytest.raises(UsageError, match="--mix"):
            parse_mix(words)
