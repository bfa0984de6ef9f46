"""A page of a TIFF: what its tags say, whether it can be decoded, and its values as (H, W, C)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from openmae.data import jpeg, jpeg2000
from openmae.data.header import FREE_BYTES, limit
from openmae.data.values import Pixels
from openmae.errors import DataError

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LINEAR_RAW = 0, 1, 2, 3, 5, 6, 34892
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_ALPHA = (1, 2)  # of ExtraSamples: associated and unassociated; 0 is a band
_NONE = 1
_FAX = (2, 3, 4)
_JPEG = (6, 7, 99)
_JPEG2000 = (33004, 33005, 34712)
_COMPRESSIONS = {
    _NONE: "none",
    **dict.fromkeys(_FAX, "fax"),
    5: "LZW",
    **dict.fromkeys(_JPEG, "JPEG"),
    **dict.fromkeys((8, 32946, 50013), "deflate"),
    32773: "PackBits",
    **dict.fromkeys(_JPEG2000, "JPEG 2000"),
    34925: "LZMA",
    **dict.fromkeys((34926, 50000), "zstd"),
}
_SINGLE = (
    *("imagelength", "imagewidth", "imagedepth", "samplesperpixel", "bitspersample"),
    *("compression", "photometric", "planarconfig", "predictor", "sampleformat"),
)  # tags that must not have several values
_MAX_SEGMENTS = 131_072  # tiles or strips of an image


def require_bounded(page: Any, planes: int, length: int) -> None:
    """Refuse a page whose tags ask for more memory or time than its file can be worth.

    Raises:
        DataError: too large, or a kind of page that is not read.
    """
    for tag in _SINGLE:
        if not isinstance(getattr(page, tag), int):
            raise DataError(f"a TIFF with several values of {tag}")
    if page.dtype is None or page.bitspersample == 0 or page.samplesperpixel < 1:
        raise DataError(f"{page.bitspersample}-bit values of format {page.sampleformat}")
    if page.photometric not in (*_COLOURS, LINEAR_RAW):
        raise DataError(f"TIFF whose colours are {_name(page.photometric)} is not read")
    if page.compression not in _COMPRESSIONS:
        raise DataError(f"TIFF compressed by {_name(page.compression)} is not read")
    plain = not page.is_subsampled and np.dtype(page.dtype) == np.uint8
    if _is_ycbcr(page) and not (plain and page.samplesperpixel == 3):
        raise DataError("TIFF with subsampled YCbCr colours outside of JPEG is not read")
    if page.jpegheader is not None:
        raise DataError("a slide scanner's NDPI is not read: convert it to TIFF")
    itemsize = np.dtype(page.dtype).itemsize
    depth = max(1, page.imagedepth)
    pixel = page.samplesperpixel * itemsize * depth * planes
    limit(page.imagelength, page.imagewidth, pixel, length)
    if page.is_tiled:
        tile = page.tilewidth * page.tilelength * max(1, page.tiledepth) * itemsize
        tile *= page.samplesperpixel if page.planarconfig == 1 else 1
        if tile < 1 or tile > FREE_BYTES:
            raise DataError(f"tiles of {page.tilewidth}x{page.tilelength}")
    segments = int(np.prod(page.chunked, dtype=np.float64))
    if segments > _MAX_SEGMENTS and page.compression != _NONE:
        raise DataError(f"{segments:,} tiles or strips")


def dtype(page: Any) -> np.dtype:
    """Of the values that `finish` gives."""
    if page.bitspersample < 8 or page.photometric == PALETTE:
        return np.dtype(np.uint8)
    return np.dtype(page.dtype).newbyteorder("=")


def channels(page: Any) -> int:
    """That `finish` gives."""
    if page.photometric == PALETTE or _is_cmyk(page):
        return 3
    return len(_kept(page))


def samples(page: Any, keyframe: Any, length: int) -> Pixels:
    """The values of a page as (H, W, samples); of a missing page zeros.

    Raises:
        DataError: its data end beyond those of the file, or are too many.
        Exception: whatever tifffile raises.
    """
    if page is None:
        shape = (keyframe.imagelength, keyframe.imagewidth, keyframe.samplesperpixel)
        return np.zeros(shape, dtype=keyframe.dtype)
    _require_data(page, keyframe, length)
    return interleaved(page.asarray(squeeze=False, maxworkers=1).reshape(keyframe.shaped))


def interleaved(values: Pixels) -> Pixels:
    """tifffile's (planes, depth, H, W, samples) to (H, W, C), the first of several depths."""
    flat = values[:, 0]
    return flat[0] if flat.shape[0] == 1 else np.moveaxis(flat[..., 0], 0, -1)


def finish(values: Pixels, page: Any) -> Pixels:
    """Samples -> channels: white-is-zero inverted, bits to 0..255, palette and CMYK to RGB, alpha
    dropped, declared no-data of floats to NaN.
    """
    bits, kind = page.bitspersample, values.dtype.kind
    if page.photometric == PALETTE:
        return _coloured(values[..., 0], page)
    if page.photometric == WHITE_IS_ZERO and kind == "b":
        values = ~values
    elif page.photometric == WHITE_IS_ZERO and kind == "u":
        values = values.dtype.type(2**bits - 1) - values
    if kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    elif bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    if kind == "f" and 42113 in page.tags:  # GDAL_NODATA
        values[values == page.nodata] = np.nan
    if _is_cmyk(page):
        return _from_cmyk(values[..., :4])
    if _is_ycbcr(page):
        colours = Image.frombytes("YCbCr", values.shape[1::-1], values.tobytes())
        return np.array(colours.convert("RGB"))
    kept = _kept(page)
    return values if len(kept) == values.shape[2] else values[..., kept]


def _require_data(page: Any, keyframe: Any, length: int) -> None:
    """What the tables of strips or tiles promise has to be in the file."""
    offsets, counts = page.dataoffsets, page.databytecounts
    segments = int(np.prod(keyframe.chunked, dtype=np.float64))
    listed = min(len(offsets), len(counts))
    if listed < segments and not (keyframe.is_contiguous and len(offsets)):
        raise DataError(f"{listed} of {segments} strips or tiles")
    ends = [o + c for o, c in zip(offsets, counts, strict=False) if c > 0]
    needed = max(ends, default=0)
    if keyframe.is_contiguous and len(offsets):
        needed = max(needed if segments == len(ends) else 0, offsets[0] + keyframe.nbytes)
    if needed > length:
        raise DataError(f"truncated: {length:,} of {needed:,} bytes")
    if keyframe.compression in (*_JPEG, *_JPEG2000):
        _require_small_pictures(page, keyframe)


def _require_small_pictures(page: Any, keyframe: Any) -> None:
    """A tile that is itself a JPEG names its own size, which nothing else bounds."""
    handle = page.parent.filehandle
    height = keyframe.tilelength if keyframe.is_tiled else keyframe.rowsperstrip
    width = keyframe.tilewidth if keyframe.is_tiled else keyframe.imagewidth
    allowed = min(height, keyframe.imagelength + 4096) * min(width, keyframe.imagewidth + 4096)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count < 1:
            continue
        handle.seek(offset)
        part = handle.read(count)
        if keyframe.compression in _JPEG:
            about = jpeg.frame(part)
            pixels = 0 if about is None else about.height * about.width
            jpeg.require_few_scans(part, pixels)
        else:
            size = jpeg2000.size(part)
            pixels = size.height * size.width
        if pixels > max(4 * allowed, 65536):
            raise DataError(f"a tile or strip of {pixels:,} pixels where {allowed:,} are announced")


def _kept(page: Any) -> list[int]:
    """Samples that are no alpha."""
    count, extra = page.samplesperpixel, tuple(page.extrasamples or ())
    first = count - len(extra)
    alpha = {first + i for i, kind in enumerate(extra) if kind in _ALPHA and first + i > 0}
    return [i for i in range(count) if i not in alpha]


def _is_ycbcr(page: Any) -> bool:
    """Colours that the decoder of the compression does not turn into RGB by itself."""
    return page.photometric == YCBCR and page.compression not in (*_JPEG, *_JPEG2000)


def _is_cmyk(page: Any) -> bool:
    """Four inks; other sets of inks are bands."""
    inks = page.tags.get(332)
    return bool(
        page.photometric == CMYK
        and page.samplesperpixel >= 4
        and np.dtype(page.dtype).kind == "u"
        and (inks is None or inks.value == 1)
    )


def _from_cmyk(values: Pixels) -> Pixels:
    """By Pillow, or by its formula (1 - ink) (1 - black) at 16 bits."""
    if values.dtype == np.uint8:
        inks = Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())
        return np.array(inks.convert("RGB"))
    full = np.iinfo(values.dtype).max
    light = full - values.astype(np.float64)
    return np.rint(light[..., :3] * light[..., 3:] / full).astype(values.dtype)


def _coloured(values: Pixels, page: Any) -> Pixels:
    """Indices -> RGB by the colour map of the file, whose 16 bits repeat 8."""
    colours = page.colormap
    if colours is None or colours.ndim != 2:
        raise DataError("a palette image without its palette")
    table = np.asarray(colours).T
    table = (table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)
    if values.size and (int(values.max()) >= len(table) or int(values.min()) < 0):
        raise DataError("a palette image with values beyond its palette")
    image = np.empty((*values.shape, 3), dtype=np.uint8)
    for row, indices in zip(image, values, strict=True):  # indices take 8 bytes each
        row[...] = table[indices.astype(np.intp)]
    return image


def _name(value: Any) -> str:
    return getattr(value, "name", None) or f"number {value}"
