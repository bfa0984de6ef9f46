"""JPEG: by simplejpeg, which does not turn images nor read CMYK; the rest by Pillow, and files of
more than 8 bits by imagecodecs.
"""

from __future__ import annotations

from typing import NamedTuple

import imagecodecs
import numpy as np
import simplejpeg

from openmae.data import picture
from openmae.data.header import Header, limit
from openmae.data.orientation import exif_orientation, upright, upright_size
from openmae.data.values import Pixels
from openmae.errors import DataError

MAGIC = b"\xff\xd8\xff"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_SCAN_BYTES = 12  # a scan of a progressive file is at least so long
_MAX_WORK = 2_000_000_000  # pixels x scans; a camera's progressive file has about 10 scans


class Frame(NamedTuple):
    """What stands before the first scan of a JPEG."""

    height: int
    width: int
    components: int
    bits: int
    orientation: int


def frame(data: bytes) -> Frame | None:
    """Size, components, bits and orientation, or None where the segments do not lead there."""
    found, orientation, at = None, 1, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        if marker in (0xDA, 0xD9):
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 10 : at + 2 + length])
        elif marker in _FRAMES and at + 10 <= len(data):
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            found = height, width, data[at + 9], data[at + 4]
        at += 2 + length
    return None if found is None else Frame(*found, orientation)


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, 1) or (H, W, 3) uint8; uint16 of files of 9 to 16 bits.

    Raises:
        DataError: too large, or made to be slow.
        Exception: whatever a decoder raises.
    """
    about = frame(data)
    if about is not None and about.bits > 8:
        limit(about.height, about.width, 2 * about.components, len(data))
        image = imagecodecs.jpeg_decode(data)
        image = image.reshape(*image.shape[:2], -1)
        return upright(image[..., :1] if image.shape[2] == 2 else image[..., :3], about.orientation)
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return picture.read(data, gray)
    limit(height, width, 3, len(data))
    require_few_scans(data, height * width)
    if about is None or colour not in ("Gray", "YCbCr", "RGB"):
        return picture.read(data, gray)
    wanted = "GRAY" if (colour == "Gray" if gray is None else gray) else "RGB"
    try:
        image = simplejpeg.decode_jpeg(data, colorspace=wanted, fastdct=False, fastupsample=False)
    except ValueError:  # stray bytes, which Pillow overlooks, or truncated, which it names
        return picture.read(data, gray)
    return upright(image, about.orientation)


def header(data: bytes) -> Header:
    """Of the segments before the first scan."""
    about = frame(data)
    if about is None:
        return picture.header(data)
    limit(about.height, about.width, 3, len(data))
    height, width = upright_size(about.height, about.width, about.orientation)
    channels = 3 if about.components > 2 else 1
    kind = np.dtype(np.uint16 if about.bits > 8 else np.uint8)
    return Header(height, width, channels, str(kind), "JPEG")


def require_few_scans(data: bytes, pixels: int) -> None:
    """Refuse a progressive file of thousands of scans, each of which passes over all pixels: a few
    kilobytes would take hours. Ordinary files are too short for that, and are not searched.

    Raises:
        DataError: too many scans.
    """
    if pixels * (len(data) // _SCAN_BYTES) > _MAX_WORK:
        scans = data.count(b"\xff\xda")
        if pixels * scans > _MAX_WORK:
            raise DataError(f"{scans:,} scans over {pixels:,} pixels")
