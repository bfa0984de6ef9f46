"""A look at the data before a run: sizes, channels, mean and deviation, unreadable files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from openmae.data.sources import Source
from openmae.data.values import auto_range
from openmae.errors import DataError

LOOK = 2000  # images that a scan reads, evenly spaced
_SIDE = 256  # pixels of a side that count towards mean and standard deviation


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


def scan(
    source: Source,
    channels: int,
    measure: bool = True,
    look: int = LOOK,
    value_range: tuple[float, float] | None = None,
) -> Scan:
    """Read the headers, and with `measure` the pixels, of up to `look` evenly spaced images.

    Where images are not 8-bit, a `value_range` is chosen from their extremes if none is given.

    Raises:
        DataError: nothing can be read, or the channels do not fit.
    """
    indices = sorted({int(i) for i in np.linspace(0, len(source) - 1, min(look, len(source)))})
    found = Scan(len(source), len(indices))
    for index in indices:
        try:
            height, width, count, kind, _ = source.header(index)
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
            continue
        found.heights.append(height)
        found.widths.append(width)
        found.channels[len(source.decoding.bands) or count] += 1
        found.types[kind] += 1
    if not found.heights:
        path, reason = found.bad[0]
        raise DataError(
            f"None of {found.looked} images in {source.name} can be read. First: {path}: {reason}"
        )
    _require_channels(found, channels)
    if value_range is not None or set(found.types) - {"uint8", "bool"}:
        found.value_range = value_range or _find_range(source, indices, found)
        reads = replace(source.decoding, value_range=found.value_range, mean=None, std=None)
        source = source.decoded(reads)
    if measure:
        found.mean, found.std = _statistics(source, indices, found, channels)
    return found


def check_channels(source: Source, channels: int) -> None:
    """Raise DataError when the images have other channels than a model reads, from a look at some
    of them.
    """
    scan(source, channels, measure=False, look=50)


def _require_channels(found: Scan, channels: int) -> None:
    total = sum(found.channels.values())
    if channels in found.channels or (channels == 1 and 3 in found.channels):
        return
    usual, number = found.channels.most_common(1)[0]
    how_many = f"all {total}" if number == total else f"{number} of {total}"
    plural = "" if usual == 1 else "s"
    raise DataError(
        f"Images have {usual} channel{plural} ({how_many}), model expects {channels}. Add"
        f" --channels {usual}"
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


def _find_range(source: Source, indices: list[int], found: Scan) -> tuple[float, float]:
    """Of all images that were looked at and are not 8-bit."""
    lows, highs, letters = [], [], set()
    listed = {path for path, _ in found.bad}
    for index in indices:
        if source.path(index) in listed:
            continue
        try:
            image = source.decoding.select(source.raw(index))
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
            continue
        if image.dtype in (np.uint8, np.bool_):
            continue
        values = image[np.isfinite(image)] if image.dtype.kind == "f" else image
        if values.size:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
            letters.add(image.dtype.kind)
    if not lows:
        path, reason = found.bad[-1] if found.bad else ("", "no values that are numbers")
        raise DataError(f"None of {found.looked} images can be used. Last: {path}: {reason}")
    found.extremes = (min(lows), max(highs))
    return auto_range(lows, highs, "f" if "f" in letters else "i")


def _statistics(
    source: Source, indices: list[int], found: Scan, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    listed = {path for path, _ in found.bad}
    for index in indices:
        if source.path(index) in listed:
            continue
        try:
            image = source[index]["image"]
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
            continue
        step = max(1, min(image.shape[:2]) // _SIDE)
        pixels = image[::step, ::step].reshape(-1, channels).astype(np.float64)
        pixels = pixels / 255 if image.dtype == np.uint8 else pixels
        total += pixels.sum(axis=0)
        square += (pixels**2).sum(axis=0)
        count += len(pixels)
    if not count:
        path, reason = found.bad[-1]
        raise DataError(
            f"None of {found.looked} images in {source.name} can be read. Last: {path}: {reason}"
        )
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    constant = 1e-3 if found.value_range is None else 1e-7
    std = np.where(std < constant, 1.0, std)  # constant channels stay finite
    return tuple(_short(m) for m in mean), tuple(_short(s) for s in std)


def _short(value: float) -> float:
    """Six digits, also of small numbers: deep images may use a little of their range."""
    return round(float(value), 6) if abs(value) >= 1e-2 else float(f"{value:.6g}")
