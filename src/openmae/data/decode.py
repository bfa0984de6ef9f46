"""Image files to 8-bit arrays.

JPEG goes to simplejpeg (Pillow when it refuses), TIFF to tifffile, the rest to Pillow with an
explicit list of formats. EXIF orientation is applied; of an animation the first frame is read;
alpha is dropped; CMYK and palettes become RGB. 16-bit and float images are refused by name:
`.convert("RGB")` would turn them white or black without a word.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

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

Image8 = NDArray[np.uint8]

# A broken file is reported once, by name and reason; tifffile would log a line for each of its
# tags.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Header(NamedTuple):
    """Size in pixels and channels of a file, read without decoding where the format allows."""

    height: int
    width: int
    channels: int


def decode(path: Path, channels: int | None = None) -> Image8:
    """Read an image file as (H, W, C) uint8 with `channels` channels, or its own number.

    Gray becomes RGB by repetition and RGB becomes gray by luma; no other number of channels is
    converted.

    Raises:
        DataError: the file cannot be read, with the reason.
    """
    try:
        data = path.read_bytes()
        image = _decode(data, channels)
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnidentifiedImageError,
        MemoryError,
        EOFError,
    ) as error:
        raise DataError(_reason(error, path)) from None
    except Exception as error:  # a decoder's own bug must name the file, not end the run
        raise DataError(f"{type(error).__name__}: {error}") from None
    if channels is not None and image.shape[2] != channels:
        raise DataError(f"has {image.shape[2]} channels, not {channels}")
    return image


def header(path: Path) -> Header:
    """Size and channels of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(32)
        if start[:3] == b"\xff\xd8\xff" or start[:4] in _TIFF:
            image = decode(path) if start[:4] in _TIFF else None
            if image is not None:
                return Header(*image.shape)
            height, width, colour, _ = simplejpeg.decode_jpeg_header(path.read_bytes())
            return Header(height, width, 1 if colour == "Gray" else 3)
        with _open(path.read_bytes()) as picture:
            return Header(picture.height, picture.width, 1 if picture.mode in _GRAY else 3)
    except DataError:
        raise
    except Exception as error:
        raise DataError(_reason(error, path)) from None


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "empty file" if path.stat().st_size == 0 else "not an image of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:160] or type(error).__name__


def _decode(data: bytes, channels: int | None) -> Image8:
    if data[:3] == b"\xff\xd8\xff":
        image = _jpeg(data, channels)
        if image is not None:
            return image
    if data[:4] in _TIFF:
        return _fit(_tiff(data), channels)
    with warnings.catch_warnings(), _open(data) as picture:
        warnings.simplefilter(
            "ignore"
        )  # oddities that do not change the pixels (broken EXIF, palette alpha)
        picture.load()  # decode first: a broken EXIF block must not hide a broken image
        gray = picture.mode in _GRAY if channels is None else channels == 1
        upright = ImageOps.exif_transpose(picture)
        array = np.array(upright.convert("L" if gray else "RGB"))
    return array.reshape(*array.shape[:2], -1)


def _jpeg(data: bytes, channels: int | None) -> Image8 | None:
    """Decode with simplejpeg, or None where Pillow has to try (CMYK, 12 bit, stray bytes,
    rotation).
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        _limit(height, width)
        if colour not in ("Gray", "YCbCr", "RGB") or b"Exif\0\0" in data[:65536]:
            return None
        gray = colour == "Gray" if channels is None else channels == 1
        wanted = "GRAY" if gray else "RGB"
        return simplejpeg.decode_jpeg(data, colorspace=wanted, fastdct=False, fastupsample=False)
    except ValueError:
        return None


def _open(data: bytes) -> Image.Image:
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24 and data[24] == 16:
        raise DataError("16 bits a channel; only 8-bit images are read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_limit` is stricter
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    _limit(picture.height, picture.width)
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"mode {picture.mode} (16-bit or float); only 8-bit images are read")
    return picture


def _limit(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")


def _tiff(data: bytes) -> Image8:
    """The first page or series of a TIFF, planar or interleaved, as (H, W, C)."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = tiff.series[0]
        axes, shape = series.axes, series.shape
        page = tiff.pages[0]
        _limit(page.imagelength, page.imagewidth)
        if series.dtype != np.uint8:
            raise DataError(f"{series.dtype} values; only 8-bit images are read")
        array = series.asarray()
    while array.ndim > 3 or (
        array.ndim == 3 and axes[0] not in "SCYX" and shape[0] > 1 and axes[-1] == "S"
    ):
        array, axes, shape = array[0], axes[1:], shape[1:]
    if array.ndim == 2:
        return array[..., None]
    return array if axes.endswith("S") and axes[0] == "Y" else np.moveaxis(array, 0, -1)


def _fit(image: Image8, channels: int | None) -> Image8:
    have = image.shape[2]
    if channels is None or have == channels:
        return image
    if channels == 3 and have == 1:
        return image.repeat(3, axis=2)
    if channels == 3 and have == 4:
        return image[..., :3]
    if channels == 1 and have in (3, 4):
        return np.array(Image.fromarray(np.ascontiguousarray(image[..., :3])).convert("L"))[
            ..., None
        ]
    return image
