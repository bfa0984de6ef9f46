"""Many strings in little memory."""

from __future__ import annotations

import pickle

import pytest

from openmae.data.names import Names

WORDS = ["a", "", "käse/ü.png", "\udcff.png", "x" * 300, "a"]


def test_it_is_the_list():
    names = Names(WORDS)
    assert list(names) == WORDS == [names[i] for i in range(len(names))]
    assert names == WORDS
    assert names[-1] == "a"
    assert list(names[1:4]) == WORDS[1:4]
    assert "käse/ü.png" in names
    with pytest.raises(IndexError):
        names[6]
    assert list(Names()) == []


def test_it_travels():
    names = pickle.loads(pickle.dumps(Names(WORDS)))
    assert list(names) == WORDS
    assert Names.of(names.block, names.ends) == WORDS


def test_it_is_small():
    names = Names(f"class/{i:08d}.jpeg" for i in range(1000))
    assert names.block.nbytes + names.ends.nbytes == 1000 * (len("class/00000000.jpeg") + 8)
