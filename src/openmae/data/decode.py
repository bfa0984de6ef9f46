"""Image files to 8-bit arrays.

JPEG goes to simplejpeg and TIFF to tifffile (Pillow where they do not do), the rest to Pillow with
an explicit list of formats. EXIF orientation is applied; of an animation the first frame is read;
alpha is dropped; CMYK and palettes become RGB. 16-bit and float images are refused by name:
`.convert("RGB")` would turn them white or black without a word.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF")
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".gif",
        ".tif",
        ".tiff",
        ".jpe",
        ".jfif",
    ]
)
MAX_PIXELS = 89_478_485  # Pillow's own limit, which by itself only warns up to twice as much
_GRAY = ("1", "L", "LA", "La")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF = (b"Exif\0\0", b"eXIf", b"EXIF")  # of JPEG, PNG and WebP
_ORIENTATION = 0x0112


# A broken file is reported once, by name and reason; tifffile would log a line for each of its
# tags.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


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
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None


def read_image(data: bytes, gray: bool | None = None) -> Pixels:
    """Decode a file in memory to (H, W, C), values and channels as they are there; no alpha.

    `gray` lets decoders of 8-bit pictures make gray (True) or RGB (False) at once.

    Raises:
        DataError: it cannot be read, with the reason.
    """
    try:
        return _decode(data, gray)
    except DataError:
        raise
    except Exception as error:  # a decoder's own bug must name the file, not end the run
        raise DataError(_reason(error, data)) from None


def read_header(data: bytes) -> Header:
    """Size, channels and type of a file in memory.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if data[:4] in _TIFF:
            return header_of(_decode(data, None), "TIFF")
        with _open(data) as picture:
            height, width = picture.height, picture.width
            if any(mark in data for mark in _EXIF) and _orientation(picture) > 4:
                height, width = width, height
            count = 1 if picture.mode in _GRAY else 3
            return Header(height, width, count, "uint8", picture.format or "")
    except DataError:
        raise
    except Exception as error:
        raise DataError(_reason(error, data)) from None


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format" if data else "empty file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = isinstance(error, (OSError, ValueError, SyntaxError, MemoryError, EOFError))
    text = " ".join(str(error).split())[:160] or type(error).__name__
    return text if known else f"{type(error).__name__}: {text}"


def _decode(data: bytes, gray: bool | None) -> Pixels:
    if data[:3] == b"\xff\xd8\xff":
        image = _jpeg(data, gray)
        if image is not None:
            return image
    if data[:4] in _TIFF:
        image = _tiff(data)
        if image is not None:
            return image
    with warnings.catch_warnings(), _open(data) as picture:
        warnings.simplefilter(
            "ignore"
        )  # oddities that do not change the pixels (broken EXIF, palette alpha)
        picture.load()  # decode first: a broken EXIF block must not hide a broken image
        as_gray = picture.mode in _GRAY if gray is None else gray
        upright = ImageOps.exif_transpose(picture) if _orientation(picture) > 1 else picture
        array = np.array(upright.convert("L" if as_gray else "RGB"))
    return array.reshape(*array.shape[:2], -1)


def _jpeg(data: bytes, gray: bool | None) -> Pixels | None:
    """Decode with simplejpeg, or None where Pillow has to try (CMYK, 12 bit, stray bytes,
    rotation).
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        _limit(height, width)
        if colour not in ("Gray", "YCbCr", "RGB") or b"Exif\0\0" in data[:65536]:
            return None
        as_gray = colour == "Gray" if gray is None else gray
        wanted = "GRAY" if as_gray else "RGB"
        return simplejpeg.decode_jpeg(data, colorspace=wanted, fastdct=False, fastupsample=False)
    except ValueError:
        return None


def _open(data: bytes) -> Image.Image:
    if _deep(data):
        raise DataError("16 bits a channel; only 8-bit images are read")
    formats = ("TIFF",) if data[:4] in _TIFF else FORMATS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images `_limit` decides, of broken ones the load
        try:
            picture = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError:
            raise DataError(f"more than {MAX_PIXELS:,} pixels") from None
    _limit(picture.height, picture.width)
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"mode {picture.mode} (16-bit or float); only 8-bit images are read")
    return picture


def _deep(data: bytes) -> bool:
    """Colour of more than 8 bits, which Pillow would cut to 8 without a word: PNG and PPM."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return len(data) > 24 and data[24] == 16
    if data[:2] in (b"P3", b"P6"):
        words = re.sub(rb"#[^\n]*", b"", data[:512]).split()
        return len(words) > 3 and words[3].isdigit() and int(words[3]) > 255
    return False


def _orientation(picture: Image.Image) -> int:
    """1 to 8 as EXIF counts; 1, upright, where the block is missing or broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = picture.getexif().get(_ORIENTATION, 1)
        except Exception:  # Pillow raises whatever its TIFF reader meets; the pixels are fine
            return 1
    return found if found in range(1, 9) else 1


def _limit(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")


def _tiff(data: bytes) -> Pixels | None:
    """The first page or series of a TIFF, planar or interleaved, as (H, W, C); None where Pillow
    has to try (palette, CMYK, inverted, 1 bit, rotated, compressed in a way tifffile cannot read).
    """
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = tiff.series[0]
        axes, shape = series.axes, series.shape
        page = tiff.pages[0]
        _limit(page.imagelength, page.imagewidth)
        turned = getattr(page.tags.get(_ORIENTATION), "value", 1) != 1
        if page.photometric not in (1, 2) or series.dtype == np.bool_ or turned:
            return None
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if page.samplesperpixel not in (1, 3, 4) or len(series) > 1:
                raise DataError(
                    f"{page.compression.name} in TIFF: pip install imagecodecs"
                ) from None
            return None
    while array.ndim > 3 or (
        array.ndim == 3 and axes[0] not in "SCYX" and shape[0] > 1 and axes[-1] == "S"
    ):
        array, axes, shape = array[0], axes[1:], shape[1:]
    if array.ndim == 2:
        return array[..., None]
    return array if axes.endswith("S") and axes[0] == "Y" else np.moveaxis(array, 0, -1)
