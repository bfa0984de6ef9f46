"""8-bit pictures, by Pillow with an explicit list of formats.

Of an animation the first frame is read; alpha is dropped, what it hides stays as it is stored; a
palette and CMYK become RGB; gray with alpha becomes gray; 1 bit becomes 0 and 255.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from openmae.data.header import MAX_PIXELS, Header, limit
from openmae.data.orientation import exif_orientation, upright, upright_size
from openmae.data.values import Pixels
from openmae.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF")  # JPEG includes the first frame of MPO
_GRAY = ("1", "L", "LA", "La")
_MODES = (*_GRAY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_CHUNK = 4_000_000  # pixels that are converted at once, so that large images are not held thrice


def read(data: bytes, gray: bool | None = None, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """(H, W, 1) or (H, W, 3) uint8; `gray` asks for one of them.

    Raises:
        DataError: too large, or values of another kind.
        Exception: whatever Pillow raises.
    """
    with warnings.catch_warnings():
        # oddities that do not change the pixels (broken EXIF, palette alpha)
        warnings.simplefilter("ignore")
        with _open(data, formats) as found:
            found.load()  # decode first: a broken EXIF block must not hide a broken image
            orientation = _orientation(found)
            as_gray = found.mode in _GRAY if gray is None else gray
            image = _values(found, "L" if as_gray else "RGB")
    return upright(image, orientation)


def header(data: bytes, formats: tuple[str, ...] = FORMATS) -> Header:
    """Size and channels, without decoding.

    Raises:
        DataError: too large, or values of another kind.
        Exception: whatever Pillow raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(data, formats) as found:
            size = upright_size(found.height, found.width, _orientation(found))
            return Header(*size, 1 if found.mode in _GRAY else 3, "uint8", found.format or "")


def orientation_of(data: bytes, formats: tuple[str, ...]) -> int:
    """The EXIF orientation, 1 to 8, without decoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _open(data, formats) as found:
            return _orientation(found)


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        found = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise DataError(f"more than {MAX_PIXELS:,} pixels") from None
    # a decoder's own memory: libwebp holds three canvases, a progressive CMYK all coefficients
    weight = {"WEBP": 5, "JPEG": len(found.getbands())}.get(found.format or "", 3)
    limit(found.height, found.width, max(3, weight), len(data))
    if found.mode not in _MODES:
        raise DataError(f"{found.format} with values of mode {found.mode} is not read")
    return found


def _orientation(found: Image.Image) -> int:
    block = found.info.get("exif")
    return exif_orientation(block) if isinstance(block, bytes) else 1


def _values(found: Image.Image, mode: str) -> Pixels:
    height, width = found.height, found.width
    if height * width <= _CHUNK:
        return np.array(found.convert(mode)).reshape(height, width, -1)
    image = np.empty((height, width, 1 if mode == "L" else 3), dtype=np.uint8)
    rows = max(1, _CHUNK // width)
    for top in range(0, height, rows):
        part = found.crop((0, top, width, min(top + rows, height))).convert(mode)
        image[top : top + rows] = np.asarray(part).reshape(part.height, width, -1)
    return image
