"""PNG: of 16 bits a channel by imagecodecs, exactly; the rest by Pillow."""

from __future__ import annotations

import zlib

import imagecodecs
import numpy as np

from openmae.data import picture
from openmae.data.header import Header, limit
from openmae.data.orientation import exif_orientation, upright, upright_size
from openmae.data.values import Pixels
from openmae.errors import DataError

MAGIC = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # without alpha, a palette as RGB


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, 1) or (H, W, 3), uint8 or uint16; the default image of an animation.

    Raises:
        DataError: not a PNG, or too large.
        Exception: whatever a decoder raises.
    """
    height, width, bits, colour = _start(data)
    if bits != 16:
        return picture.read(data, gray, ("PNG",))
    limit(height, width, 2 * _SAMPLES[colour], len(data))
    image = imagecodecs.png_decode(_essential(data))
    if image.dtype != np.uint16 or image.shape[:2] != (height, width):
        raise DataError("16-bit PNG that does not decode to 16 bits")
    image = image.reshape(height, width, -1)[..., : _CHANNELS[colour]]
    return upright(image, _orientation(data))


def header(data: bytes) -> Header:
    """Of the first chunk, and of the EXIF chunk if there is one."""
    height, width, bits, colour = _start(data)
    limit(height, width, max(3, bits // 8 * _SAMPLES[colour]), len(data))
    size = upright_size(height, width, _orientation(data))
    return Header(*size, _CHANNELS[colour], "uint16" if bits == 16 else "uint8", "PNG")


def _start(data: bytes) -> tuple[int, int, int, int]:
    """Height, width, bits and colour type."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DataError("truncated or not a PNG: its header is missing")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    if colour not in _SAMPLES or bits not in (1, 2, 4, 8, 16):
        raise DataError(f"PNG of colour type {colour} with {bits} bits: there is no such thing")
    if data[26:28] != b"\0\0":
        raise DataError(f"PNG of compression {data[26]} and filter {data[27]} is not read")
    return height, width, bits, colour


def _essential(data: bytes) -> bytes:
    """The chunks that make the pixels, whole and with right checksums: of the others, which may be
    broken or large, libpng would print what it thinks.

    Raises:
        DataError: a chunk is cut or damaged.
    """
    kept, at = [data[:8]], 8
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            raise DataError(f"truncated: {len(data):,} bytes, a chunk ends at {end:,}")
        name = data[at + 4 : at + 8]
        if name in (b"IHDR", b"IDAT", b"IEND"):
            if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(
                data[end - 4 : end], "big"
            ):
                raise DataError(f"damaged: the checksum of {name.decode()} does not agree")
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end


def _orientation(data: bytes) -> int:
    at = data.find(b"eXIf")
    if at < 4:
        return 1
    length = int.from_bytes(data[at - 4 : at], "big")
    return exif_orientation(data[at + 4 : at + 4 + length])
