"""Which images are almost the same: a perceptual hash to find them, a small picture to be sure.

The hash is pHash (the signs of the low frequencies of a cosine transform, against their median),
64 bits; it does not see size, compression or brightness. The small picture (16x16 gray) then says
whether two images of nearly the same hash are alike: alone, a hash of 64 bits pairs simple images
that have nothing in common. Both are ours, in a few lines of numpy: the libraries for it work on
8-bit images only and bring PyWavelets (imagehash), or OpenCV and pandas (perception).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.values import Pixels

BITS = 10  # of the 64 may differ
SIMILARITY = 0.92  # correlation of the small pictures
SMALL = 16  # pixels of their side
_SIDE, _LOW = 32, 8
_MOST = 1024  # pixels of a side that are averaged; the rest of a deep image is thinned
_BANDS = (11, 11, 11, 11, 10, 10)  # bits: of 10 errors in six parts, one part has at most one
_BLOCK = 4_000_000  # pairs compared at once

_cosine = np.cos(np.pi / _SIDE * (np.arange(_SIDE) + 0.5) * np.arange(_LOW)[:, None])
_MIXED = np.random.Generator(np.random.Philox(0)).permutation(64).astype(np.uint64)


class Twins(NamedTuple):
    """Images `later` with the earliest one that each is almost the same as, bits of their hashes
    that differ, and the correlation of their small pictures.
    """

    later: NDArray[np.int64]
    earlier: NDArray[np.int64]
    bits: NDArray[np.int64]
    similarity: NDArray[np.float32]


def fingerprint(image: Pixels) -> tuple[int, NDArray[np.uint8]]:
    """The hash and the small picture (256,) of an image (H, W, C) of any type, upright."""
    small = np.asarray(
        Image.fromarray(gray(image)).resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64
    )
    low = (_cosine @ small @ _cosine.T).ravel()
    bits = low > np.median(low[1:])  # the first is the mean, which brightness changes
    half = small.reshape(SMALL, 2, SMALL, 2).mean(axis=(1, 3)).ravel()
    half -= half.min()
    picture = np.rint(half * (255 / max(half.max(), 1e-30))).astype(np.uint8)
    return int(np.packbits(bits).view(">u8")[0]), picture


def gray(image: Pixels) -> NDArray[Any]:
    """(H, W) uint8 or float32. Bands of deep images are stretched, each between its percentiles 1
    and 99, and averaged; the first three of four 8-bit channels count.
    """
    if image.dtype == np.uint8 and image.shape[2] in (1, 3, 4):
        if image.shape[2] == 1:
            return np.ascontiguousarray(image[..., 0])
        colour = Image.fromarray(np.ascontiguousarray(image[..., :3]))
        return np.asarray(colour.convert("L"))
    step = max(1, min(image.shape[:2]) // _MOST)
    thin = np.abs(image) if image.dtype.kind == "c" else image
    thin = thin[::step, ::step].astype(np.float32)
    sample = thin[:: max(1, thin.shape[0] // 256), :: max(1, thin.shape[1] // 256)]
    total = np.zeros(thin.shape[:2], dtype=np.float32)
    for band in range(thin.shape[2]):
        values = sample[..., band][np.isfinite(sample[..., band])]
        if values.size:
            low, high = np.percentile(values, (1, 99))
            if high <= low:  # a few bright spots on nothing
                low, high = values.min(), values.max()
            spread = np.clip((thin[..., band] - low) / max(high - low, 1e-30), 0, 1)
            total += np.nan_to_num(spread)
    return total


def twins(
    hashes: NDArray[np.uint64], pictures: NDArray[np.uint8], between: int | None = None
) -> Twins:
    """Pairs among N images, given their hashes (N,) and small pictures (N, 256): each image at most
    once, with the earliest like it.

    With `between`, only pairs of one image before that number and one from it on.
    """
    parent = np.full(len(hashes), len(hashes), dtype=np.int64)
    for first, second in _neighbours(_mixed(hashes)):
        if len(first) * len(second) <= _BLOCK:
            _compare(hashes, pictures, first, second, parent, between)
            continue
        for rows, columns in {id(first): (first, second), id(second): (second, first)}.values():
            count = max(1, _BLOCK // len(columns))
            for start in range(0, len(rows), count):
                block = rows[start : start + count]
                # what has an earlier twin already needs no later one: a thousand equal images
                # are compared with the first only
                open_ = columns[(columns > block[0]) & (parent[columns] > block[0])]
                _compare(hashes, pictures, block, open_, parent, between)
    later = np.nonzero(parent < len(hashes))[0]
    earlier = parent[later]
    bits = _count(hashes[later] ^ hashes[earlier]).astype(np.int64)
    return Twins(later, earlier, bits, correlation(pictures[later], pictures[earlier]))


def _compare(
    hashes: NDArray[np.uint64],
    pictures: NDArray[np.uint8],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    parent: NDArray[np.int64],
    between: int | None,
) -> None:
    """Compare all of one set with all of another, and note the earliest twins in `parent`."""
    near = _count(hashes[first][:, None] ^ hashes[second][None]) <= BITS
    a, b = (x[k] for x, k in zip((first, second), np.nonzero(near), strict=True))
    a, b = np.minimum(a, b), np.maximum(a, b)
    new = (a < b) & (a < parent[b])
    if between is not None:
        new &= (a < between) & (b >= between)
    a, b = a[new], b[new]
    if not len(a):
        return
    order = np.lexsort((a, b))
    a, b = a[order], b[order]
    earliest = np.concatenate([[True], b[1:] != b[:-1]])
    _confirm(pictures, a[earliest], b[earliest], parent)
    rest = ~earliest & (a < parent[b])  # few: most often the earliest is the twin
    _confirm(pictures, a[rest], b[rest], parent)


def _confirm(
    pictures: NDArray[np.uint8],
    earlier: NDArray[np.int64],
    later: NDArray[np.int64],
    parent: NDArray[np.int64],
) -> None:
    for start in range(0, len(later), 65536):
        a, b = earlier[start : start + 65536], later[start : start + 65536]
        alike = correlation(pictures[a], pictures[b]) >= SIMILARITY
        np.minimum.at(parent, b[alike], a[alike])


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of each row with the same row of the other, (N, 256) -> (N,)."""
    a, b = (x.astype(np.float32) - x.mean(axis=1, keepdims=True) for x in (first, second))
    sizes = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: NDArray[np.float32] = ((a * b).sum(axis=1) / np.maximum(sizes, 1e-6)).astype(np.float32)
    return found


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The bits in another order: neighbouring frequencies go together, which would make some parts
    of a hash much commoner than others.
    """
    out = np.zeros_like(hashes)
    for to, of in enumerate(_MIXED):
        out |= ((hashes >> of) & np.uint64(1)) << np.uint64(to)
    return out


def _neighbours(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Sets of images to compare with each other: all pairs within BITS are in at least one.

    Of two hashes cut into six parts alike, with ten errors or fewer, one part has at most one.
    """
    shift = 0
    for bits in _BANDS if len(hashes) else ():
        part = ((hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)).astype(np.int64)
        shift += bits
        order = np.argsort(part, kind="stable")
        keys, starts = np.unique(part[order], return_index=True)
        groups = dict(zip(keys.tolist(), np.split(order, starts[1:]), strict=True))
        for key, group in groups.items():
            yield group, group
            for bit in range(bits):
                other = key ^ (1 << bit)
                if key < other and other in groups:
                    yield group, groups[other]


_ONES = np.array([bin(i).count("1") for i in range(65536)], dtype=np.uint8)


def _count(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits are set; numpy 1 has no function for it."""
    if hasattr(np, "bitwise_count"):
        found: NDArray[np.uint8] = np.bitwise_count(values)
        return found
    parts = np.ascontiguousarray(values).view(np.uint16).reshape(*values.shape, 4)
    total: NDArray[np.uint8] = _ONES[parts].sum(axis=-1, dtype=np.uint8)
    return total
