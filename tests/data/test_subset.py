"""Few labels: per class, seeded, nested."""

from __future__ import annotations

import numpy as np
import pytest

from openmae.data.sources import ArraySource
from openmae.data.subset import few_shot
from openmae.errors import DataError


def source(counts: dict[str, int]) -> ArraySource:
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    images = np.zeros((len(labels), 4, 4, 1), dtype=np.uint8)
    return ArraySource("made", images, labels, list(counts), range(len(labels)))


def count(found) -> list[int]:
    return np.bincount(found.labels).tolist()


def paths(found) -> set[str]:
    return {found.path(i) for i in range(len(found))}


def test_a_share_is_taken_of_each_class():
    whole = source({"a": 100, "b": 40, "c": 3})
    assert count(few_shot(whole, share=0.1)) == [10, 4, 1]
    assert count(few_shot(whole, share=1.0)) == [100, 40, 3]


def test_a_number_is_taken_of_each_class():
    whole = source({"a": 100, "b": 40})
    assert count(few_shot(whole, count=5)) == [5, 5]
    with pytest.raises(DataError, match="b has 40 images, --fraction asks for 41-per-class"):
        few_shot(whole, count=41)


def test_smaller_ones_are_part_of_larger_ones_and_seeds_differ():
    whole = source({"a": 100, "b": 40})
    assert paths(few_shot(whole, count=5, seed=1)) < paths(few_shot(whole, count=9, seed=1))
    assert paths(few_shot(whole, count=5, seed=1)) != paths(few_shot(whole, count=5, seed=2))
    assert few_shot(whole, count=5).classes == ["a", "b"]


def test_order_of_the_source_is_kept():
    found = few_shot(source({"a": 50, "b": 50}), share=0.2)
    assert found.rows.tolist() == sorted(found.rows.tolist())
