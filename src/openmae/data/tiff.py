"""TIFF by tifffile: any number of bands, interleaved or planar, in strips or tiles, of any type.

Pages are bands where the file declares a channel axis (OME, ImageJ and others that tifffile knows);
of times, depths and other pages the first is read. Alpha that is declared as such is dropped.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tifffile

from openmae.data import tiffpage
from openmae.data.header import Header
from openmae.data.orientation import upright, upright_size, valid
from openmae.data.values import Pixels
from openmae.errors import DataError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DECLARE = ("ome", "imagej", "shaped", "lsm", "mmstack", "fluoview", "stk", "ndtiff")
_MAX_PAGES = 65536  # of a stack that is searched for its channels

# A broken file is reported once, by name and reason; tifffile would log a line for each of its
# tags.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class Planes(NamedTuple):
    """Where the pixels are: the pages of a channel axis, or a place in the file."""

    page: Any
    pages: tuple[Any, ...] = ()
    offsets: tuple[int, ...] = ()  # of contiguous planes that have no page of their own
    indices: tuple[int, ...] = (0,)  # of the planes in the stack

    @property
    def number(self) -> int:
        """Of planes."""
        return max(1, len(self.pages), len(self.offsets))


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, C) of the type in the file.

    Raises:
        DataError: too large, truncated, or kept in a way that is not read.
        Exception: whatever a decoder raises.
    """
    with opened(data) as tiff:
        planes = find_planes(tiff)
        page = planes.page
        tiffpage.require_bounded(page, planes.number, len(data))
        orientation = _orientation(page)
        image = _values(data, planes)
    return upright(image, orientation)


def header(data: bytes) -> Header:
    """Of the tags, without decoding.

    Raises:
        DataError: as for `read`, as far as tags tell.
    """
    with opened(data) as tiff:
        planes = find_planes(tiff)
        page = planes.page
        tiffpage.require_bounded(page, planes.number, len(data))
        channels = tiffpage.channels(page) * planes.number
        size = upright_size(page.imagelength, page.imagewidth, _orientation(page))
        return Header(*size, channels, str(tiffpage.dtype(page)), "TIFF")


@contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """The file; no other is opened, whatever the metadata name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tiff:
            yield tiff


def find_planes(tiff: Any) -> Planes:
    """The first page, or the pages of a declared channel axis."""
    if not len(tiff.pages):
        raise DataError("a TIFF without pages")
    page = tiff.pages[0]
    if not any(getattr(tiff, f"is_{kind}", False) for kind in _DECLARE):
        return Planes(page)
    try:
        series = tiff.series[0]
        axes, shape = series.get_axes(False), series.get_shape(False)
        page = series.keyframe
        leading = _leading(axes, shape, page)
    except Exception:  # metadata of others may be broken; the first page is there all the same
        return Planes(tiff.pages[0])
    strides = np.cumprod([1, *shape[:leading][::-1]])[:leading][::-1].tolist()
    indices = [0]
    for axis, length, stride in zip(axes, shape, strides, strict=False):
        if axis in "CS" and length > 1:
            if length * len(indices) > _MAX_PAGES:
                raise DataError(f"{length:,} channels")
            indices = [i + stride * k for i in indices for k in range(length)]
    if len(series) == 1 and np.prod(shape[:leading], dtype=np.float64) > 1:
        if series.dataoffset is None:
            return Planes(page)
        offsets = tuple(series.dataoffset + i * page.nbytes for i in indices)
        return Planes(page, offsets=offsets, indices=tuple(indices))
    if max(indices) >= len(series):
        return Planes(page)
    return Planes(page, pages=tuple(series[i] for i in indices), indices=tuple(indices))


def _leading(axes: str, shape: tuple[int, ...], page: Any) -> int:
    """How many axes of a series number its pages; the others are inside a page."""
    for leading in range(len(axes) - 2, -1, -1):
        rest = axes[leading:]
        inside = np.prod(shape[leading:], dtype=np.float64)
        if "Y" in rest and "X" in rest and inside == np.prod(page.shape, dtype=np.float64):
            return leading
    raise ValueError("axes that do not fit the pages")


def _values(data: bytes, planes: Planes) -> Pixels:
    page = planes.page
    if planes.offsets:
        parts = (_contiguous(data, page, offset) for offset in planes.offsets)
    else:
        found = planes.pages or (page,)
        parts = (tiffpage.samples(p, page, len(data)) for p in found)
    if planes.number == 1:
        return tiffpage.finish(next(iter(parts)), page)
    each = tiffpage.channels(page)
    shape = (page.imagelength, page.imagewidth, each * planes.number)
    image = np.empty(shape, dtype=tiffpage.dtype(page))
    for number, part in enumerate(parts):
        image[..., number * each : (number + 1) * each] = tiffpage.finish(part, page)
    return image


def _contiguous(data: bytes, page: Any, offset: int) -> Pixels:
    kind = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    count = int(np.prod(page.shaped))
    if offset + count * kind.itemsize > len(data):
        raise DataError(f"truncated: {len(data):,} of {offset + count * kind.itemsize:,} bytes")
    values = np.frombuffer(data, kind, count, offset).reshape(page.shaped)
    return tiffpage.interleaved(values.astype(kind.newbyteorder("=")))


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return 1 if tag is None else valid(tag.value)
