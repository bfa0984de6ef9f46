"""A look at the data before a run: sizes, channels, mean and deviation, unreadable files.

What is measured of a file is kept until the file changes (openmae.data.survey), so that a second
start reads no pixels.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from openmae.data.measure import Columns
from openmae.data.moments import moments, of_sample
from openmae.data.sources import Source
from openmae.data.survey import Survey, survey
from openmae.data.traits import BAD
from openmae.data.values import Decoding, auto_range
from openmae.data.workers import default_workers
from openmae.errors import DataError

LOOK = 2000  # images that a scan reads, evenly spaced
_SHALLOW = ("uint8", "bool")
_FEW = 500  # images: fewer teach a masked autoencoder little
_MANY_BAD = 0.05  # of the images
_PROCESSES = 256  # images from which on several processes look


@dataclass
class Scan:
    """What a look at the data found. mean and std are of each channel, on the scale [0, 1]."""

    count: int
    looked: int
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    types: Counter[str] = field(default_factory=Counter)
    value_range: tuple[float, float] | None = None
    extremes: tuple[float, float] | None = None
    name: str = ""
    constant: tuple[int, ...] = ()
    """Channels, counted from 0, that have one value in all images that were looked at."""
    bands: tuple[int, ...] = ()

    @property
    def short_side(self) -> int:
        """Median of the shorter sides, in pixels."""
        return int(median(min(h, w) for h, w in zip(self.heights, self.widths, strict=True)))

    @property
    def decoded_bytes(self) -> float:
        """Estimate of all images once decoded."""
        pixels = np.mean([h * w for h, w in zip(self.heights, self.widths, strict=True)])
        return float(pixels) * self.count * max(self.channels)

    def sentence(self) -> str:
        """Sizes and channels in a line."""
        low, high = (f"{f(self.widths)}x{f(self.heights)}" for f in (min, max))
        sizes = low if low == high else f"{low} .. {high}"
        kinds = " and ".join(f"{c}-channel" for c in sorted(self.channels))
        if self.value_range is None:
            return f"sizes {sizes}, {kinds} 8-bit"
        types = " and ".join(sorted(self.types))
        low, high = (f"{v:g}" for v in self.value_range)
        seen = "" if self.extremes is None else " (found {:g} to {:g})".format(*self.extremes)
        return f"sizes {sizes}, {kinds} {types}, value range {low}:{high}{seen}"

    def warnings(self, pretraining: bool = True) -> list[str]:
        """What a run can go on with, and should not without a word; one line each."""
        lines = []
        if len(self.bad) > _MANY_BAD * self.looked:
            lines.append(
                f"{len(self.bad)} of {self.looked:,} images looked at cannot be read. Which, and"
                f" why: openmae data check {shlex.quote(self.name)}"
            )
        lines += self.about_range()
        if self.constant:
            lines.append(self._about_constant())
        if pretraining and self.count < _FEW:
            lines.append(
                f"{self.count} images: MAE features will be weak. Start from weights: --init RUN,"
                " a run folder or an encoder file"
            )
        return lines

    def about_range(self) -> list[str]:
        """What is odd about the values beside their range, one line each."""
        if self.value_range is None:
            return []
        (low, high), lines = self.value_range, []
        deep = sorted(set(self.types) - set(_SHALLOW))
        shallow = sum(self.types[name] for name in _SHALLOW)
        if shallow:
            others = f", the others {' and '.join(deep)}" if deep else ""
            lines.append(
                f"{shallow} of {self.looked:,} images are 8-bit{others}: 8-bit values are scaled by"
                f" 255, deeper ones by {low:g}:{high:g}"
            )
        least, most = self.extremes or (low, high)
        if min(least - low, high - most) < low - high:  # outside by more than the range is wide
            lines.append(
                f"values go from {least:g} to {most:g}, far outside of the value range"
                f" {low:g}:{high:g}. A run without --value-range finds it"
            )
        return lines

    def _about_constant(self) -> str:
        have = self.bands or tuple(range(len(self.mean)))
        which = " ".join(str(have[c] + 1) for c in self.constant)
        kept = [str(band + 1) for c, band in enumerate(have) if c not in self.constant]
        text = f"channel {which} has one value in all {self.looked:,} images looked at"
        return f"{text}. Without it: --bands {' '.join(kept)}" if kept else text


def scan(
    source: Source,
    channels: int,
    measure: bool = True,
    look: int = LOOK,
    value_range: tuple[float, float] | None = None,
    fixed: bool = False,
) -> Scan:
    """Read the headers, and with `measure` the pixels, of up to `look` evenly spaced images.

    Where images are not 8-bit, a `value_range` is chosen from their extremes if neither it nor the
    source's decoding gives one. `fixed`: a model is there already, and reads them as it was made.

    Raises:
        DataError: nothing can be read, or the channels do not fit.
    """
    indices = sorted({int(i) for i in np.linspace(0, len(source) - 1, min(look, len(source)))})
    found = Scan(len(source), len(indices), name=source.name, bands=source.decoding.bands)
    table = _read(source, indices, measure)
    _sizes(found, source, indices, table)
    if not found.heights:
        path, reason = found.bad[0]
        raise DataError(
            f"None of {found.looked} images in {source.name} can be read. First: {path}: {reason}"
        )
    _require_channels(found, channels, fixed)
    reads = replace(source.decoding, channels=channels, mean=None, std=None)
    value_range = value_range or source.decoding.value_range
    deep = set(found.types) - set(_SHALLOW)
    if fixed and value_range is None:
        _require_shallow(found, deep)
    elif value_range is not None or deep:
        if deep and (measure or value_range is None):
            table = table if measure else _read(source, indices, True)
            chosen = _find_range(source, table, found)
            value_range = value_range or chosen
        assert value_range is not None
        found.value_range = (float(value_range[0]), float(value_range[1]))
        reads = replace(reads, value_range=found.value_range)
    if measure:
        _statistics(source, indices, table, found, reads)
    return found


def _read(source: Source, indices: list[int], full: bool) -> Survey:
    workers = default_workers() if len(indices) >= _PROCESSES else 0
    plain = source.decoded(Decoding())  # as in the file: what is kept serves any run
    return survey(plain, indices, full, workers, kind="look")[0]


def _sizes(found: Scan, source: Source, indices: list[int], table: Survey) -> None:
    bad = table.has(BAD)
    for at, (index, reason) in enumerate(zip(indices, table.reasons, strict=True)):
        row = table.rows[at]
        if bad[at]:
            found.bad.append((source.path(index), reason))
        if row["height"]:  # the header of a broken image may be there
            found.heights.append(int(row["height"]))
            found.widths.append(int(row["width"]))
            found.channels[len(source.decoding.bands) or int(row["channels"])] += 1
            found.types[row["type"].decode()] += 1


def check_fits(source: Source, channels: int) -> Scan:
    """A look at some of the images that a model which is there already is to read.

    Raises:
        DataError: they have other channels or values than it reads.
    """
    return scan(source, channels, measure=False, look=50, fixed=True)


def _require_channels(found: Scan, channels: int, fixed: bool) -> None:
    total = sum(found.channels.values())
    if channels in found.channels or (channels == 1 and 3 in found.channels):
        return
    if fixed and channels == 3 and 1 in found.channels:
        return  # gray is repeated; a new model had better be one of gray images
    usual, number = found.channels.most_common(1)[0]
    how_many = f"all {total}" if number == total else f"{number} of {total}"
    text = f"Images have {usual} channel{'' if usual == 1 else 's'} ({how_many}), model expects"
    if fixed:
        raise DataError(f"{text} {channels}. Give such images, or a model of {usual}")
    raise DataError(f"{text} {channels}. Add --channels {usual}")


def _require_shallow(found: Scan, deep: set[str]) -> None:
    if deep and len(deep) == len(found.types):
        raise DataError(
            f"Images are {' and '.join(sorted(deep))}, model expects 8-bit ones. Give such images,"
            " or a model pretrained on these: it keeps their value range"
        )


def check_size(found: Scan, image_size: tuple[int, int]) -> None:
    """Raise DataError when most images would have to be blown up more than twice, from under 32
    pixels.
    """
    sides = [min(h, w) for h, w in zip(found.heights, found.widths, strict=True)]
    small = sum(s <= 32 and s * 2 < min(image_size) for s in sides)
    if small * 2 <= len(sides):
        return
    side = found.short_side
    patch = max(p for p in (1, 2, 4) if p == 1 or p * 6 <= side)
    size = max(patch, side // patch * patch)
    raise DataError(
        f"{small} of {len(sides)} images are at most 32 px (median {side} px), image-size is"
        f" {min(image_size)}. Try --image-size {size} --patch-size {patch}"
    )


def _find_range(source: Source, table: Survey, found: Scan) -> tuple[float, float]:
    """Of all images that were looked at and are not 8-bit."""
    lows, highs, letters = [], [], set()
    for at, end in enumerate(table.ends.tolist()):
        row = table.rows[at]
        kind = np.dtype(row["type"].decode() or "uint8")
        if not row["count"] or kind in (np.uint8, np.bool_):
            continue
        stats = table.stats[end - row["count"] : end][: row["channels"]]
        wanted = [b for b in source.decoding.bands or range(len(stats)) if b < len(stats)]
        values = stats[wanted][np.isfinite(stats[wanted, Columns.LOW])]
        if len(values):
            lows.append(float(values[:, Columns.LOW].min()))
            highs.append(float(values[:, Columns.HIGH].max()))
            letters.add(kind.kind)
    if not lows:
        raise DataError(f"no image of {source.name} has values that are numbers")
    found.extremes = (min(lows), max(highs))
    return auto_range(lows, highs, "f" if "f" in letters else "i")


def _statistics(
    source: Source, indices: list[int], table: Survey, found: Scan, reads: Decoding
) -> None:
    """Mean, deviation and constant channels of the samples that `reads` would make."""
    parts: list[NDArray[np.float64]] = []
    bad = table.has(BAD)
    for at, end in enumerate(table.ends.tolist()):
        if bad[at]:
            continue
        row, index = table.rows[at], indices[at]
        stats = table.stats[end - row["count"] : end]
        try:
            parts.append(of_sample(source, index, row, stats, reads))
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
    if not parts:
        path, reason = found.bad[-1]
        raise DataError(
            f"None of {found.looked} images in {source.name} can be read. Last: {path}: {reason}"
        )
    mean, variance = moments(np.stack(parts))
    std = np.sqrt(variance)
    flat = std < (1e-3 if found.value_range is None else 1e-7)
    found.constant = tuple(np.flatnonzero(flat).tolist())
    std = np.where(flat, 1.0, std)  # constant channels stay finite
    found.mean, found.std = tuple(map(_short, mean.tolist())), tuple(map(_short, std.tolist()))


def _short(value: float) -> float:
    """Six digits, also of small numbers: deep images may use a little of their range."""
    return round(float(value), 6) if abs(value) >= 1e-2 else float(f"{value:.6g}")
