"""What a file says of itself beside its pixels: format, mode, pages, alpha, rotation, no data."""

from __future__ import annotations

import io
import os
import warnings
from enum import IntFlag
from typing import Any, NamedTuple

import tifffile
from PIL import Image

from openmae.data import tiff

_ORIENTATION, _GDAL_NODATA = 0x0112, 42113
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF")
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff", ".btf", ".tf8"),
}
_OTHERS = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}


class Flag(IntFlag):
    """What is worth saying of a file. The first seven are faults."""

    UNREADABLE = 1
    TRUNCATED = 2
    BOMB = 4
    EMPTY = 8
    CRASHED = 16
    TINY = 32
    CONSTANT = 64
    ANIMATED = 128
    PAGES = 256
    ALPHA = 512
    PALETTE = 1024
    CMYK = 2048
    TURNED = 4096
    EXTENSION = 8192
    NO_DATA = 16384
    NEARLY_EMPTY = 32768
    HEADER_ONLY = 65536


BAD = Flag.UNREADABLE | Flag.TRUNCATED | Flag.BOMB | Flag.EMPTY | Flag.CRASHED
ODD = {
    Flag.ANIMATED: "animated: only the first frame is read",
    Flag.PAGES: "several pages: only the first page or series is read",
    Flag.ALPHA: "transparent parts: alpha is dropped",
    Flag.PALETTE: "a palette: read as RGB",
    Flag.CMYK: "CMYK: read as RGB",
    Flag.TURNED: "turned by EXIF: read upright",
    Flag.EXTENSION: "the name says another format than the content",
    Flag.NO_DATA: "has values that stand for no data (NaN, infinite, or declared)",
}
"""Odd files can be read; this is what is done with them."""


class Traits(NamedTuple):
    """Format and mode as Pillow and tifffile call them; `no_data` is the value declared so."""

    format: str = ""
    mode: str = ""
    flags: Flag = Flag(0)
    no_data: float | None = None


def traits(data: bytes, path: str) -> Traits:
    """Of an encoded file; of one that is damaged what can be seen. Never raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _tiff(data) if data[:4] in tiff.MAGIC else _picture(data)
    except Exception:  # whatever a reader meets: the pixels decide whether the file can be used
        return Traits()
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _OTHERS and suffix not in _SUFFIXES.get(found.format, (suffix,)):
        return found._replace(flags=found.flags | Flag.EXTENSION)
    return found


def _picture(data: bytes) -> Traits:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        flags, mode = _of_mode(picture.mode), picture.mode
        if "transparency" in picture.info:
            flags |= Flag.ALPHA
        name = picture.format or ""
        if getattr(picture, "is_animated", False) and name != "MPO":
            flags |= Flag.ANIMATED
        if picture.getexif().get(_ORIENTATION, 1) in range(2, 9):
            flags |= Flag.TURNED
        return Traits("JPEG" if name == "MPO" else name, mode, flags)


def _of_mode(mode: str) -> Flag:
    flags = Flag(0)
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        flags |= Flag.ALPHA
    if mode in ("P", "PA"):
        flags |= Flag.PALETTE
    return flags | Flag.CMYK if mode == "CMYK" else flags


def _tiff(data: bytes) -> Traits:
    with tiff.opened(data) as found:
        planes = tiff.find_planes(found)
        page = planes.page
        photometric = tifffile.PHOTOMETRIC(page.photometric).name or ""
        flags = {"PALETTE": Flag.PALETTE, "SEPARATED": Flag.CMYK}.get(photometric, Flag(0))
        if {1, 2} & {int(kind) for kind in page.extrasamples}:  # alpha, multiplied in or not
            flags |= Flag.ALPHA
        if getattr(page.tags.get(_ORIENTATION), "value", 1) in range(2, 9):
            flags |= Flag.TURNED
        stack = found.series[0]
        if len(found.series) > 1 or stack.size > planes.number * page.size:
            flags |= Flag.PAGES
        return Traits("TIFF", photometric, flags, _no_data(page))


def _no_data(page: Any) -> float | None:
    declared = page.tags.get(_GDAL_NODATA)
    try:
        return None if declared is None else float(str(declared.value).strip("\0 "))
    except ValueError:
        return None
