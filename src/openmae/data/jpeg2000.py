"""JPEG 2000: up to 8 bits and 4 components by Pillow; the rest by imagecodecs, exactly."""

from __future__ import annotations

from typing import NamedTuple

import imagecodecs
import numpy as np

from openmae.data import picture
from openmae.data.header import Header, limit
from openmae.data.values import Pixels
from openmae.errors import DataError

MAGIC = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ
_MAX_TILES = 65535  # what the format can number


class Size(NamedTuple):
    """What the SIZ segment of a codestream says."""

    height: int
    width: int
    components: int
    bits: int
    signed: bool

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds the values."""
        size = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return np.dtype(f"{'i' if self.signed else 'u'}{size}")

    @property
    def decoder_bytes(self) -> int:
        """Of a pixel while OpenJPEG works, 32 bits a component, and of the result."""
        return self.components * (4 + self.dtype.itemsize)


def size(data: bytes) -> Size:
    """Of the first codestream in the file.

    Raises:
        DataError: there is none, or its components differ.
    """
    at = data.find(_CODESTREAM)
    if at < 0 or len(data) < at + 42:
        raise DataError("truncated: its header is missing")
    right, lower, left, upper, tile_w, tile_h, tile_x, tile_y = (
        int.from_bytes(data[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(8)
    )
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    parts = data[at + 42 : at + 42 + 3 * count]
    if len(parts) < 3 * count or not count:
        raise DataError("truncated: its header is missing")
    if len({parts[i : i + 3] for i in range(0, 3 * count, 3)}) != 1 or parts[1:3] != b"\1\1":
        raise DataError("JPEG 2000 whose components differ in size or bits is not read")
    height, width = lower - upper, right - left
    if not tile_w or not tile_h:
        raise DataError("JPEG 2000 without tiles")
    if -(-(right - tile_x) // tile_w) * -(-(lower - tile_y) // tile_h) > _MAX_TILES:
        raise DataError("JPEG 2000 of more tiles than there can be")
    return Size(height, width, count, (parts[0] & 0x7F) + 1, bool(parts[0] & 0x80))


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, C) of the type that holds the values.

    Raises:
        DataError: too large.
        Exception: whatever a decoder raises.
    """
    about = size(data)
    limit(about.height, about.width, about.decoder_bytes, len(data))
    if _by_pillow(about):
        return picture.read(data, gray, ("JPEG2000",))
    image = imagecodecs.jpeg2k_decode(data, planar=False, numthreads=1)
    image = image.reshape(*image.shape[:2], -1)
    return image[..., _kept(data, image.shape[2])]


def header(data: bytes) -> Header:
    """Of the first codestream."""
    about = size(data)
    limit(about.height, about.width, about.decoder_bytes, len(data))
    if _by_pillow(about):
        return picture.header(data, ("JPEG2000",))
    count = len(_kept(data, about.components))
    return Header(about.height, about.width, count, str(about.dtype), "JPEG2000")


def _by_pillow(about: Size) -> bool:
    return about.bits <= 8 and not about.signed and about.components <= 4


def _kept(data: bytes, count: int) -> list[int]:
    """Components that are no alpha, by the box of channel definitions."""
    at = data.find(b"cdef")
    if at < 0:
        return list(range(count))
    number = min(int.from_bytes(data[at + 4 : at + 6], "big"), count)
    entries = [data[at + 6 + 6 * i : at + 12 + 6 * i] for i in range(number)]
    alpha = {int.from_bytes(e[:2], "big") for e in entries if e[2:4] in (b"\0\1", b"\0\2")}
    return [i for i in range(count) if i not in alpha] or list(range(count))
