"""Images that are in a data set more than once, or in two data sets: the same file, or almost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.likeness import twins
from openmae.data.survey import Survey
from openmae.data.traits import BAD, Flag


class Pair(NamedTuple):
    """Places of an image and of the earliest one like it; `bits` of their hashes that differ (of
    64) and the correlation of their small pictures; 0 and 1 for the same file.
    """

    later: int
    earlier: int
    exact: bool
    bits: int = 0
    similarity: float = 1.0


def duplicates(table: Survey, near: bool = True) -> list[Pair]:
    """Each image at most once, with the earliest like it. Constant and nearly empty images are like
    each other only where their files are the same.
    """
    places = np.flatnonzero(~table.has(BAD) & (table.rows["count"] > 0))
    first = _first(table.rows["digest"][places])
    pairs = [Pair(int(places[i]), int(places[f]), True) for i, f in enumerate(first) if f != i]
    if near:
        single = places[first == np.arange(len(places))]
        single = single[~table.has(Flag.CONSTANT | Flag.NEARLY_EMPTY)[single]]
        found = twins(table.rows["look"][single], table.rows["picture"][single])
        for later, earlier, bits, alike in zip(*(part.tolist() for part in found), strict=True):
            pairs.append(Pair(int(single[later]), int(single[earlier]), False, bits, alike))
    return sorted(pairs)


def leakage(table: Survey, other: Survey, near: bool = True) -> list[Pair]:
    """Images of `other` (later) that are in `table` (earlier) too."""
    ours, theirs = (np.flatnonzero(~t.has(BAD) & (t.rows["count"] > 0)) for t in (table, other))
    digests = np.concatenate([table.rows["digest"][ours], other.rows["digest"][theirs]])
    first = _first(digests)[len(ours) :]
    pairs = [Pair(int(theirs[i]), int(ours[f]), True) for i, f in enumerate(first) if f < len(ours)]
    if near:
        plain = Flag.CONSTANT | Flag.NEARLY_EMPTY
        a = ours[~table.has(plain)[ours]]
        b = theirs[first >= len(ours)]
        b = b[~other.has(plain)[b]]
        looks, pictures = (
            np.concatenate([table.rows[name][a], other.rows[name][b]])
            for name in ("look", "picture")
        )
        found = twins(looks, pictures, between=len(a))
        for later, earlier, bits, alike in zip(*(part.tolist() for part in found), strict=True):
            pairs.append(Pair(int(b[later - len(a)]), int(a[earlier]), False, bits, alike))
    return sorted(pairs)


def _first(digests: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Where the first file with the same content stands."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse.ravel()]
    return found
