"""What the header of an image says, and how large an image may be."""

from __future__ import annotations

from typing import NamedTuple

from openmae.data.values import Pixels
from openmae.errors import DataError

MAX_PIXELS = 89_478_485
"""Pillow's own limit, which by itself only warns up to twice as much."""

MAX_BYTES = 2 * 1024**3
"""Of one decoded image, and of one file."""

FREE_BYTES = 256 * 1024**2
"""A decoded image may be as large as this however small its file: 8-bit RGB of MAX_PIXELS."""

MAX_GROWTH = 200
"""Beyond FREE_BYTES an image may be so many times its file; the rest are decompression bombs."""


class Header(NamedTuple):
    """Size in pixels, channels and type of an image, read without decoding where the format
    allows.
    """

    height: int
    width: int
    channels: int
    dtype: str = "uint8"
    format: str = ""


def header_of(image: Pixels, format: str = "") -> Header:
    """Of an image that is at hand."""
    height, width, channels = image.shape
    return Header(height, width, channels, str(image.dtype), format)


def limit(height: int, width: int, pixel_bytes: int, length: int) -> None:
    """Refuse an image before memory is asked for it.

    `pixel_bytes` are the bytes of one decoded pixel with all its bands; `length` those of the file.

    Raises:
        DataError: no pixels, too many, too large, or too large for so small a file.
    """
    if height < 1 or width < 1:
        raise DataError(f"{width}x{height}: no pixels")
    if height * width > MAX_PIXELS:
        raise DataError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")
    size = height * width * pixel_bytes
    if size > MAX_BYTES:
        raise DataError(f"{width}x{height} decodes to {size / 1024**3:.1f} GiB, more than 2 GiB")
    if size > FREE_BYTES and size > MAX_GROWTH * length:
        raise DataError(
            f"{length:,} bytes that decode to {size / 1024**2:,.0f} MiB: a decompression bomb"
        )
