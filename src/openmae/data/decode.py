"""Image files to arrays, as they are in the file: which reader, by the first bytes.

What becomes of each format is in docs/images-in.md. EXIF orientation is applied; of an animation, a
stack or a video the first frame is read; alpha is dropped; CMYK and palettes become RGB. Values of
more than 8 bits never pass through 8 bits.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import UnidentifiedImageError

from openmae.data import dicom, heif, jpeg, jpeg2000, picture, png, pnm, tiff
from openmae.data.bandnames import read_band_names
from openmae.data.header import MAX_BYTES, MAX_PIXELS, Header, header_of
from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Header",
    "decode",
    "header_of",
    "read_band_names",
    "read_bytes",
    "read_header",
    "read_image",
]

_PICTURES = ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .avif .gif .bmp .dib .heic .heif"
_MEASUREMENTS = ".tif .tiff .btf .tf8 .ppm .pgm .pbm .pnm .pfm .jp2 .j2k .j2c .jpf .jpx .dcm .dicom"
SUFFIXES = frozenset(f"{_PICTURES} {_MEASUREMENTS}".split())
"""Of files that are looked for in folders; what a file is, its first bytes say."""


class _Reader(NamedTuple):
    fits: Callable[[bytes], bool]
    read: Callable[[bytes, bool | None], Pixels]
    header: Callable[[bytes], Header]


_READERS = (
    _Reader(lambda data: data[:3] == jpeg.MAGIC, jpeg.read, jpeg.header),
    _Reader(lambda data: data[:8] == png.MAGIC, png.read, png.header),
    _Reader(dicom.is_dicom, dicom.read, dicom.header),  # before TIFF: its preamble may be one
    _Reader(lambda data: data[:4] in tiff.MAGIC, tiff.read, tiff.header),
    _Reader(pnm.is_map, pnm.read, pnm.header),
    _Reader(lambda data: data.startswith(jpeg2000.MAGIC), jpeg2000.read, jpeg2000.header),
    _Reader(heif.is_avif, heif.read_avif, heif.header_avif),
    _Reader(heif.is_heic, heif.read_heic, heif.header_heic),
    _Reader(lambda data: True, picture.read, picture.header),
)


def decode(path: Path, decoding: Decoding | None = None) -> Pixels:
    """Read an image file as (H, W, C), by default as it is in the file.

    Raises:
        DataError: the file cannot be read, with the reason.
    """
    decoding = decoding or Decoding()
    return decoding(read_image(read_bytes(path), decoding.gray))


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        DataError: it cannot be read, is no regular file (a named pipe would never end), or larger
            than 2 GiB.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError("Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise DataError(f"a file of {status.st_size / 1024**3:.1f} GiB, more than 2 GiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(getattr(error, "strerror", None) or str(error)) from None


def read_image(data: bytes, gray: bool | None = None) -> Pixels:
    """Decode a file in memory to (H, W, C), values and channels as they are there; no alpha.

    `gray` lets decoders of 8-bit pictures make gray (True) or RGB (False) at once.

    Raises:
        DataError: it cannot be read, with the reason.
    """
    try:
        return _reader(data).read(data, gray)
    except DataError:
        raise
    except Exception as error:  # a decoder's own bug must name the file, not end the run
        raise DataError(_reason(error)) from None


def read_header(data: bytes) -> Header:
    """Size, channels and type of a file in memory.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return _reader(data).header(data)
    except DataError:
        raise
    except Exception as error:
        raise DataError(_reason(error)) from None


def _reader(data: bytes) -> _Reader:
    if not data:
        raise DataError("empty file")
    return next(reader for reader in _READERS if reader.fits(data))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = isinstance(error, (OSError, ValueError, SyntaxError, MemoryError, EOFError))
    text = " ".join(str(error).split())[:160] or type(error).__name__
    return text if known else f"{type(error).__name__}: {text}"
