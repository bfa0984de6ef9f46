"""What is measured of one image: size and type, extremes and moments of each channel, and what it
looks like.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import Header, header_of, read_band_names, read_header, read_image
from openmae.data.likeness import SMALL, fingerprint
from openmae.data.source import BytesSource, Source
from openmae.data.traits import Flag, Traits, traits
from openmae.data.values import Pixels, fit_channels
from openmae.errors import DataError

TINY = 32  # pixels of the shorter side
_SIDE = 256  # pixels of a side that count towards mean and deviation


class Columns(IntEnum):
    """Of `stats`: lowest and highest value of all pixels; number, mean and sum of squared
    deviations of those that count (a grid of at most 511 a side), in float64; how many of these
    are no numbers.
    """

    LOW = 0
    HIGH = 1
    COUNT = 2
    MEAN = 3
    SQUARES = 4
    MISSING = 5


COLUMNS = len(Columns)
_USUAL = (-9999.0, -32768.0, float(np.finfo(np.float32).min))  # for no data, undeclared
_CUT = ("truncat", "ends at", "premature", "unexpected end", "not enough image data")
_HUGE = ("bomb", "more than")


class Measured(NamedTuple):
    """Of one image. `stats` is (channels, 6), for colour (channels + 1, 6) with its gray last."""

    header: Header = Header(0, 0, 0, "")
    mode: str = ""
    flags: Flag = Flag(0)
    digest: bytes = bytes(16)
    look: int = 0
    picture: bytes = bytes(SMALL * SMALL)
    stats: NDArray[np.float64] = np.zeros((0, COLUMNS))
    reason: str = ""
    bands: tuple[str, ...] = ()


def measure(source: Source, row: int, full: bool = True) -> Measured:
    """A row of a source as it is in the file; with `full=False` its header only. Never raises: what
    is wrong is in `flags` and `reason`.
    """
    with np.errstate(all="ignore"):  # of values that are no numbers, or close to the limits
        return _measure(source, row, full)


def _measure(source: Source, row: int, full: bool) -> Measured:
    found = Measured()
    try:
        if not full:
            return _sized(found._replace(header=source.row_header(row), flags=Flag.HEADER_ONLY))
        if not isinstance(source, BytesSource):
            image = source.row_image(row)
            shape = f"{image.dtype} {image.shape}".encode()
            digest = hashlib.blake2b(shape + image.tobytes(), digest_size=16).digest()
            return _pixels(found._replace(digest=digest), image, Traits())
        data = source.row_bytes(row)
        found = found._replace(digest=hashlib.blake2b(data, digest_size=16).digest())
        seen, known = traits(data, source.row_name(row)), _header(data)
        found = found._replace(mode=seen.mode, flags=seen.flags, header=known)
        plain = type(source).row_image is BytesSource.row_image
        image = read_image(data) if plain else source.row_image(row)
        image_header = header_of(image, known.format or seen.format)
        bands = tuple(read_band_names(data))
        return _pixels(found._replace(bands=bands, header=image_header), image, seen)
    except (DataError, MemoryError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return found._replace(reason=reason[:300], flags=found.flags | _fault(reason))


def _header(data: bytes) -> Header:
    try:
        return read_header(data)
    except DataError:
        return Measured().header


def _fault(reason: str) -> Flag:
    lower = reason.lower()
    if lower == "empty file":
        return Flag.EMPTY
    if any(word in lower for word in _CUT):
        return Flag.TRUNCATED
    return Flag.BOMB if any(word in lower for word in _HUGE) else Flag.UNREADABLE


def _sized(found: Measured) -> Measured:
    tiny = min(found.header.height, found.header.width) < TINY
    return found._replace(flags=found.flags | Flag.TINY) if tiny else found


def _pixels(found: Measured, image: Pixels, seen: Traits) -> Measured:
    format_ = found.header.format
    found = _sized(found._replace(header=header_of(image, format_)))
    if image.dtype.kind == "c":
        raise DataError("complex values; give their magnitude")
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    stats = statistics(image)
    if not stats[:, Columns.COUNT].any() and not np.isfinite(stats[:, Columns.LOW]).any():
        raise DataError("no value is a number")
    flags = found.flags
    if (stats[:, Columns.LOW] == stats[:, Columns.HIGH]).all():
        flags |= Flag.CONSTANT
    ends = stats[:, [Columns.LOW, Columns.HIGH]]
    whole = image.dtype.kind != "f" or bool(np.isfinite(image).all())
    declared = seen.no_data is not None and bool((ends == seen.no_data).any())
    usual = image.dtype.kind in "if" and bool(np.isin(ends, _USUAL).any())
    if not whole or declared or usual:
        flags |= Flag.NO_DATA
    look, picture = fingerprint(image)
    return found._replace(flags=flags, stats=stats, look=look, picture=picture.tobytes())


def statistics(image: Pixels) -> NDArray[np.float64]:
    """(channels, 6), or (channels + 1, 6) with gray last, of an image (H, W, C); see `COLUMNS`."""
    step = max(1, min(image.shape[:2]) // _SIDE)
    thin = image[::step, ::step]
    rows = [_channel(thin[..., c]) for c in range(image.shape[2])]
    stats = np.array(rows)
    for column, least in ((Columns.LOW, True), (Columns.HIGH, False)):
        stats[:, column] = _extremes(image, least)
    if image.shape[2] in (3, 4):  # as it is read with --channels 1
        gray = _channel(fit_channels(np.ascontiguousarray(thin), 1)[..., 0])
        stats = np.concatenate([stats, gray[None]])
    return stats


def _channel(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = values.astype(np.float64).ravel()
    numbers = flat[np.isfinite(flat)] if values.dtype.kind == "f" else flat
    if not numbers.size:
        return np.array([np.nan, np.nan, 0, 0, 0, flat.size])
    mean = numbers.mean()
    squares = float(np.square(numbers - mean).sum())
    missing = flat.size - numbers.size
    return np.array([numbers.min(), numbers.max(), numbers.size, mean, squares, missing])


def _extremes(image: Pixels, least: bool) -> NDArray[np.float64]:
    """Of each channel, all pixels, numbers only; rows first, which is many times faster."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        image = np.where(np.isfinite(image), image, np.nan)
        by_row = (np.fmin if least else np.fmax).reduce(image, axis=0)
        found = (np.fmin if least else np.fmax).reduce(by_row, axis=0)
    else:
        found = (np.min if least else np.max)(image, axis=0)
        found = (np.min if least else np.max)(found, axis=0)
    out: NDArray[np.float64] = found.astype(np.float64)
    return out
