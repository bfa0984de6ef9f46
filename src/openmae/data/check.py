"""A look at the data before a run: sizes, channels, mean and deviation, unreadable files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from openmae.data.sources import Source
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
        return f"sizes {sizes}, {kinds} 8-bit"


def scan(source: Source, channels: int, measure: bool = True, look: int = LOOK) -> Scan:
    """Read the headers, and with `measure` the pixels, of up to `look` evenly spaced images.

    Raises:
        DataError: nothing can be read, or the channels do not fit.
    """
    indices = sorted({int(i) for i in np.linspace(0, len(source) - 1, min(look, len(source)))})
    found = Scan(len(source), len(indices))
    for index in indices:
        try:
            height, width, count = source.header(index)
        except DataError as error:
            found.bad.append((source.path(index), str(error)))
            continue
        found.heights.append(height)
        found.widths.append(width)
        found.channels[count] += 1
    if not found.heights:
        path, reason = found.bad[0]
        raise DataError(
            f"None of {found.looked} images in {source.name} can be read. First: {path}: {reason}"
        )
    _require_channels(found, channels)
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
        pixels = image[::step, ::step].reshape(-1, channels).astype(np.float64) / 255
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
    std = np.where(std < 1e-3, 1.0, std)  # constant channels stay finite
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)
