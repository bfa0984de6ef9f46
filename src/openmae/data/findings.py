"""From what was measured of each image to what is said of a data set, ready for JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.measure import Columns
from openmae.data.moments import moments
from openmae.data.source import Source
from openmae.data.survey import Survey
from openmae.data.traits import BAD, ODD, Flag
from openmae.data.values import auto_range

LONG = 3.0  # longer than so many times the shorter side is worth a word
_FAINT = 0.02  # of the usual deviation of such images: nearly empty
_BINS = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
_WORDS = {
    Flag.EMPTY: "empty file",
    Flag.TRUNCATED: "truncated",
    Flag.BOMB: "too large",
    Flag.CRASHED: "crashes its decoder",
    Flag.UNREADABLE: "unreadable",
}


def findings(source: Source, indices: NDArray[np.int64], table: Survey) -> dict[str, Any]:
    """All but twins. `table` is of `indices`; its nearly empty images are marked as such."""
    _mark_faint(table)
    good = ~table.has(BAD)
    rows = table.rows[good]
    names = next((b for b in table.bands if b), "")
    return {
        "data": source.name,
        "n": len(source),
        "looked": len(table),
        "readable": int(good.sum()),
        "sizes": _sizes(rows),
        "formats": _count(rows["format"]),
        "modes": _count(rows["mode"]),
        "channels": _count(rows["channels"]),
        "types": _count(rows["type"]),
        "values": _values(table),
        "value_range": _value_range(table),
        "band_names": names.split("\t") if names else [],
        "classes": _classes(source),
        "bad": [
            {"path": path, "kind": kind, "reason": reason}
            for path, kind, reason in _bad(source, indices, table)
        ],
        "tiny": _paths(source, indices, table.has(Flag.TINY) & good),
        "constant": _paths(source, indices, table.has(Flag.CONSTANT) & good),
        "nearly_empty": _paths(source, indices, table.has(Flag.NEARLY_EMPTY) & good),
        "long": _paths(source, indices, good & _is_long(table.rows)),
        "odd": {
            (flag.name or "").lower(): {
                "what": words,
                "paths": _paths(source, indices, table.has(flag) & good),
            }
            for flag, words in ODD.items()
            if (table.has(flag) & good).any()
        },
    }


def _paths(source: Source, indices: NDArray[np.int64], which: NDArray[np.bool_]) -> list[str]:
    return [source.path(i) for i in indices[which].tolist()]


def _bad(source: Source, indices: NDArray[np.int64], table: Survey) -> list[tuple[str, str, str]]:
    found = []
    reasons = list(table.reasons)
    for at in np.flatnonzero(table.has(BAD)).tolist():
        flags = Flag(int(table.rows[at]["flags"]))
        kind = next(words for flag, words in _WORDS.items() if flags & flag)
        found.append((source.path(int(indices[at])), kind, reasons[at]))
    return found


def _count(values: NDArray[Any]) -> dict[str, int]:
    words = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    return dict(Counter(word for word in words if word).most_common())


def _is_long(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    short = np.minimum(rows["height"], rows["width"])
    found: NDArray[np.bool_] = np.maximum(rows["height"], rows["width"]) > LONG * short
    return found & (short > 0)


def _sizes(rows: NDArray[np.void]) -> dict[str, Any]:
    height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    if not len(rows):
        return {}
    short = np.minimum(height, width)
    counts, _ = np.histogram(short, bins=[*_BINS, 2**40])
    within = np.flatnonzero(counts)
    bins = range(int(within[0]), int(within[-1]) + 1)
    ends = [*_BINS[1:], None]
    aspect = width / height
    middle = float(np.median(aspect))
    return {
        "width": _spread(width),
        "height": _spread(height),
        "short_side": _spread(short),
        "smallest": [int(v) for v in _at(width, height, int(np.argmin(width * height)))],
        "largest": [int(v) for v in _at(width, height, int(np.argmax(width * height)))],
        "different": len(np.unique(np.stack([height, width]), axis=1).T),
        "landscape": int((width > height).sum()),
        "portrait": int((height > width).sum()),
        "square": int((height == width).sum()),
        "aspect": middle,
        "same_aspect": float((np.abs(aspect / middle - 1) < 0.1).mean()),
        "long": int(_is_long(rows).sum()),
        "short_side_histogram": [
            {"from": _BINS[i], "to": ends[i], "count": int(counts[i])} for i in bins
        ],
    }


def _at(width: NDArray[Any], height: NDArray[Any], index: int) -> tuple[int, int]:
    return width[index], height[index]


def _spread(values: NDArray[np.int64]) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _values(table: Survey) -> list[dict[str, Any]]:
    """Of each kind of image (channels and type), commonest first: extremes, mean and deviation of
    each channel, in the units of the files.
    """
    good = ~table.has(BAD) & (table.rows["count"] > 0)
    kinds = Counter(
        zip(table.rows["channels"][good].tolist(), table.rows["type"][good].tolist(), strict=True)
    )
    starts = table.ends - table.rows["count"]
    found = []
    for (channels, kind), count in kinds.most_common():
        same = good & (table.rows["channels"] == channels) & (table.rows["type"] == kind)
        places = starts[same][:, None] + np.arange(channels)
        stats = table.stats[places]  # (N, channels, 6)
        usable = stats[stats[..., Columns.COUNT].min(axis=1) > 0]
        columns = [Columns.COUNT, Columns.MEAN, Columns.SQUARES]
        mean, variance = moments(usable[..., columns]) if len(usable) else (np.zeros(channels),) * 2
        with np.errstate(all="ignore"):
            low, high = (
                np.fmin.reduce(stats[..., Columns.LOW], axis=0),
                np.fmax.reduce(stats[..., Columns.HIGH], axis=0),
            )
        missing = stats[..., Columns.MISSING].sum() / max(
            1.0, (stats[..., Columns.MISSING] + stats[..., Columns.COUNT]).sum()
        )
        found.append(
            {
                "channels": channels,
                "type": kind.decode(),
                "count": count,
                "low": _numbers(low),
                "high": _numbers(high),
                "mean": _numbers(mean),
                "std": _numbers(np.sqrt(variance)),
                "no_numbers": float(missing),
            }
        )
    return found


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """JSON has no word for what is no number."""
    return [float(v) if np.isfinite(v) else None for v in values.tolist()]


def _value_range(table: Survey) -> list[float] | None:
    """As a run would choose it; None where all is 8-bit."""
    kinds, lows, highs = set(), [], []
    for group in _values(table):
        if group["type"] not in ("uint8", "bool"):
            kinds.add(np.dtype(group["type"]).kind)
            lows += [v for v in group["low"] if v is not None]
            highs += [v for v in group["high"] if v is not None]
    return list(auto_range(lows, highs, "f" if "f" in kinds else "i")) if lows else None


def _classes(source: Source) -> dict[str, Any] | None:
    if len(source.classes) < 2:
        return None
    labels = source.labels
    if labels.ndim == 2:
        counts = (labels > 0).sum(axis=0)
        without = int((labels <= 0).all(axis=1).sum())
    else:
        counts = np.bincount(labels[labels >= 0], minlength=len(source.classes))
        without = int((labels < 0).sum())
    named = {name: int(n) for name, n in zip(source.classes, counts.tolist(), strict=True)}
    order = sorted(named, key=lambda name: -named[name])
    least = min((n for n in named.values() if n), default=1)
    return {
        "count": len(named),
        "largest": [order[0], named[order[0]]],
        "smallest": [order[-1], named[order[-1]]],
        "ratio": named[order[0]] / least,
        "unlabelled": without,
        "images": {name: named[name] for name in order},
    }


def _mark_faint(table: Survey) -> None:
    """Mark images whose deviation is tiny beside that of others of their type."""
    rows = table.rows
    usable = np.flatnonzero(~table.has(BAD | Flag.CONSTANT) & (rows["count"] > 0))
    starts = table.ends - rows["count"]
    with np.errstate(all="ignore"):
        each = np.sqrt(table.stats[:, Columns.SQUARES] / table.stats[:, Columns.COUNT])
    each = np.nan_to_num(each)
    if not len(usable):
        return
    largest = np.maximum.reduceat(each, starts[usable]) if len(each) else each
    for kind in np.unique(rows["type"][usable]):
        same = rows["type"][usable] == kind
        faint = largest[same] < _FAINT * np.median(largest[same])
        rows["flags"][usable[same][faint]] |= np.uint32(Flag.NEARLY_EMPTY)
