"""AVIF and HEIC: 8-bit AVIF by Pillow, deeper by imagecodecs; HEIC by pillow-heif (an extra)."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np

from openmae.data import picture
from openmae.data.header import Header, limit
from openmae.data.orientation import upright
from openmae.data.values import Pixels
from openmae.errors import DataError

_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_LOOK = 65536  # bytes in which the properties of the image stand


def is_avif(data: bytes) -> bool:
    """By the brands in the first box."""
    return any(brand in _AVIF for brand in _brands(data))


def is_heic(data: bytes) -> bool:
    """By the brands in the first box."""
    return any(brand in _HEIC for brand in _brands(data)) and not is_avif(data)


def _brands(data: bytes) -> list[bytes]:
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[i : i + 4] for i in range(16, end, 4))]


def read_avif(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, 3) uint8, or uint16 of 10 and 12 bits.

    Raises:
        DataError: too large.
        Exception: whatever a decoder raises.
    """
    if _avif_bits(data) == 8:
        return picture.read(data, gray, ("AVIF",))
    if b"moov" in data:  # imagecodecs 2026.3.6 damages its memory when asked for one of many
        raise DataError("a moving AVIF of more than 8 bits is not read")
    about = picture.header(data, ("AVIF",))  # with its limits
    limit(about.height, about.width, 16, len(data))
    image = imagecodecs.avif_decode(data, numthreads=1)
    image = image.reshape(*image.shape[:2], -1)
    turn = picture.orientation_of(data, ("AVIF",))
    return upright(image[..., :3] if image.shape[2] > 2 else image[..., :1], turn)


def header_avif(data: bytes) -> Header:
    """Of the first boxes."""
    about = picture.header(data, ("AVIF",))
    return about if _avif_bits(data) == 8 else about._replace(dtype="uint16")


def _avif_bits(data: bytes) -> int:
    """8, 10 or 12, by the codec's configuration box."""
    at = data.find(b"av1C", 0, _LOOK)
    if at < 0 or at + 7 > len(data) or not data[at + 6] & 0x40:
        return 8
    return 12 if data[at + 6] & 0x20 else 10


def read_heic(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, C) uint8, or uint16 (scaled to 16 bits by libheif) of 10 and 12 bits; upright.

    Raises:
        DataError: too large, or pillow-heif is missing.
        Exception: whatever libheif raises.
    """
    found = _heic(data)
    width, height = found.size
    image = np.asarray(found)
    if image.shape[:2] != (height, width):
        raise DataError(f"{width}x{height} are announced, {image.shape[1]}x{image.shape[0]} coded")
    image = image.reshape(height, width, -1)
    return image[..., :3] if image.shape[2] > 2 else image[..., :1]


def header_heic(data: bytes) -> Header:
    """Of the first boxes."""
    found = _heic(data)
    width, height = found.size
    kind = "uint16" if ";16" in found.mode else "uint8"
    return Header(height, width, 1 if found.mode.startswith("L") else 3, kind, "HEIC")


def _heic(data: bytes):  # type: ignore[no-untyped-def]  # of an optional package
    try:
        import pillow_heif
    except ImportError:
        raise DataError('HEIC needs pillow-heif: pip install "openmae[heic]"') from None
    found = pillow_heif.open_heif(
        io.BytesIO(data), convert_hdr_to_8bit=False, bgr_mode=False, hdr_to_16bit=True
    )
    width, height = found.size
    limit(height, width, 8 if ";16" in found.mode else 4, len(data))
    return found
