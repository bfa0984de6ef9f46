"""Masks as run lengths and polygons, as COCO writes them. What a file says is checked here before
it reaches compiled code.

H and W height and width in pixels; masks are stored column by column.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UsageError

Counts = NDArray[np.int64]


def require_dense(task: str = "detect") -> None:
    """Raise UsageError where what this needs is not installed."""
    try:
        importlib.import_module("faster_coco_eval")
    except ImportError:
        raise UsageError(f'{task} needs faster-coco-eval: pip install "openmae[dense]"') from None


def counts_of(value: Any, height: int, width: int) -> Counts:
    """The "counts" of a run-length mask, a list or COCO's packed text -> checked run lengths.

    Raises:
        ValueError: they are damaged, or of another size.
    """
    if isinstance(value, str):
        counts = _unpacked(value)
    elif isinstance(value, list) and all(type(v) is int for v in value):
        counts = value
    else:
        raise ValueError("counts are neither a list of whole numbers nor text")
    if any(not 0 <= v <= height * width for v in counts) or sum(counts) != height * width:
        raise ValueError(f"its run lengths do not fill {width}x{height} pixels")
    return np.array(counts, dtype=np.int64)


def _unpacked(text: str) -> list[int]:
    """COCO's text: five bits a character, least first, a sign and a bit that says more comes; from
    the fourth number on the difference to the one before the last.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("its packed text is damaged")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (code & 16 and 1 << shift) or 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("its packed text ends too early")
    return counts


def packed(mask: NDArray[np.bool_]) -> str:
    """A mask (H, W) -> COCO's packed text of its run lengths."""
    counts, out = runs(mask).tolist(), []
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            code, value = value & 31, value >> 5
            more = value != (-1 if code & 16 else 0)
            out.append(chr(48 + (code | 32 if more else code)))
    return "".join(out)


def runs(mask: NDArray[np.bool_]) -> Counts:
    """A mask (H, W) -> lengths of runs, the first one of zeros."""
    flat = np.asarray(mask, dtype=np.bool_).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges, [len(flat)]])
    counts = np.diff(starts).astype(np.int64)
    return np.concatenate([[0], counts]) if len(flat) and flat[0] else counts


def filled(counts: Counts, height: int, width: int) -> NDArray[np.bool_]:
    """Run lengths -> the mask (H, W)."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def polygons_of(value: Any, height: int, width: int) -> list[NDArray[np.float64]]:
    """A list of polygons x, y, x, y ... -> those that have three points or more, cut to the
    neighbourhood of the image.

    Raises:
        ValueError: they hold what are no numbers, or none is left.
    """
    if not isinstance(value, list):
        raise ValueError("a list of polygons is meant")
    found = []
    for points in value:
        if not isinstance(points, Sequence) or not all(is_number(v) for v in points):
            raise ValueError("a polygon holds what is no number")
        if len(points) % 2:
            raise ValueError("a polygon has an odd count of numbers")
        if len(points) >= 6:
            xy = np.array(points, dtype=np.float64).reshape(-1, 2)
            found.append(xy.clip([-width, -height], [2 * width, 2 * height]).ravel())
    if not found:
        raise ValueError("its polygons have fewer than three points")
    return found


def drawn(polygons: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    """Polygons -> the mask (H, W) that COCO's own code makes of them."""
    from faster_coco_eval import mask

    parts = mask.frPyObjects([p.tolist() for p in polygons], height, width)
    out: NDArray[np.bool_] = np.asarray(mask.decode(mask.merge(parts))).astype(np.bool_)
    return out


def is_number(value: Any) -> bool:
    """A finite number; true and false are none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e15 and math.isfinite(value)
