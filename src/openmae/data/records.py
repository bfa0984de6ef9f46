"""From an image of any source to a record of a packed folder."""

from __future__ import annotations

from collections.abc import Generator
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image
from torch.utils.data import Dataset

from openmae.data.decode import Header, read_header, read_image
from openmae.data.loader import loader
from openmae.data.packed import PackedSource
from openmae.data.packindex import DTYPES, FILE, JPEG, RAW, digest_of
from openmae.data.source import BytesSource, Source
from openmae.data.values import Pixels
from openmae.errors import DataError

Mode = Literal["jpeg", "lossless", "raw"]
LOOK = 200  # images whose header decides the mode, evenly spaced
_CHUNK = 8  # images that a process makes at a time


class Form(NamedTuple):
    """How images are kept; short side in pixels."""

    mode: Mode
    short_side: int
    quality: int
    shard_bytes: int


class Record(NamedTuple):
    """An image as it is kept, or the reason why it cannot be read."""

    path: str
    reason: str | None = None
    kind: int = FILE
    data: bytes = b""
    shape: tuple[int, int, int] = (0, 0, 0)
    dtype: str = "uint8"
    format: str = ""
    hash: bytes = b""


def record(source: Source, index: int, form: Form) -> Record:
    """The record of an image; every image is decoded once, so that none is kept that cannot be."""
    path = source.path(index)
    try:
        return _record(source, index, form, path)
    except DataError as error:
        return Record(path, reason=str(error))


def _record(source: Source, index: int, form: Form, path: str) -> Record:
    data = None if form.mode == "raw" else file_of(source, index)
    image = source.raw(index) if data is None else read_image(data)
    if form.mode == "jpeg" and (data is None or not _kept_as_it_is(data, image, form)):
        made = to_jpeg(image, form)
        if made is not None:
            return _made(path, JPEG, made[0], made[1], "JPEG")
    if data is not None:
        return _made(path, FILE, data, image, _format(data))
    if str(image.dtype.newbyteorder("=")) not in DTYPES:
        raise DataError(f"values of type {image.dtype}")
    plain = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    return _made(path, RAW, plain.tobytes(), plain, "")


def _made(path: str, kind: int, data: bytes, image: Pixels, format: str) -> Record:
    height, width, channels = image.shape
    dtype = str(image.dtype.newbyteorder("="))
    return Record(path, None, kind, data, (height, width, channels), dtype, format, digest_of(data))


def file_of(source: Source, index: int) -> bytes | None:
    """The file of an image; None where a source has only values."""
    row = int(source.rows[index])
    if isinstance(source, PackedSource):
        return source.row_file(row)
    if not isinstance(source, BytesSource) or type(source).row_image is not BytesSource.row_image:
        return None
    return source.row_bytes(row)


def _format(data: bytes) -> str:
    if data[:2] in (b"II", b"MM"):  # reading the header of a TIFF is reading all of it
        return "TIFF"
    return read_header(data).format


def _kept_as_it_is(data: bytes, image: Pixels, form: Form) -> bool:
    """A small JPEG, upright as it is stored, would only lose by being written again."""
    if min(image.shape[:2]) > form.short_side or data[:3] != b"\xff\xd8\xff":
        return False
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return b"Exif\0\0" not in data[:65536] and (height, width) == image.shape[:2]


def fits_jpeg(image: Pixels | Header) -> bool:
    """Whether JPEG can hold it: 8 bits, gray or colour."""
    channels = image.channels if isinstance(image, Header) else image.shape[2]
    return str(image.dtype) == "uint8" and channels in (1, 3)


def to_jpeg(image: Pixels, form: Form) -> tuple[bytes, Pixels] | None:
    """A JPEG (4:2:0) with the shorter side brought down to `short_side` by Pillow's antialiased
    bicubic filter, never enlarged, and what was written in it; None where JPEG cannot hold it.
    """
    height, width = image.shape[:2]
    if not fits_jpeg(image) or max(height, width) > 65500:
        return None
    scale = form.short_side / min(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        image = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).reshape(
            size[1], size[0], -1
        )
    gray = image.shape[2] == 1
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image),
        quality=form.quality,
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else "420",
        fastdct=False,
    )
    return data, image


class _Chunks(Dataset[dict[str, Any]]):
    """Records of some images in a row each, for the loader's processes."""

    def __init__(self, source: Source, form: Form, first: int) -> None:
        self.source, self.form, self.first = source, form, first

    def __len__(self) -> int:
        return -(-(len(self.source) - self.first) // _CHUNK)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start = self.first + number * _CHUNK
        rows = range(start, min(start + _CHUNK, len(self.source)))
        return {"records": [tuple(record(self.source, row, self.form)) for row in rows]}


def records(source: Source, form: Form, first: int, workers: int) -> Generator[Record, None, None]:
    """The records of all images from `first` on, in order, made by `workers` processes."""
    chunks = _Chunks(source, form, first)
    for chunk in loader(chunks, range(len(chunks)), workers):
        for values in chunk["records"]:
            yield Record(*values)


def looked_at(source: Source, count: int) -> list[int]:
    """Indices of up to `count` evenly spaced images."""
    return sorted({int(i) for i in np.linspace(0, len(source) - 1, min(count, len(source)))})


def look(source: Source) -> list[tuple[int, Header]]:
    """Headers of some images.

    Raises:
        DataError: none can be read.
    """
    found: list[tuple[int, Header]] = []
    first = ""
    for index in looked_at(source, LOOK):
        try:
            found.append((index, source.header(index)))
        except DataError as error:
            first = first or f"{source.path(index)}: {error}"
    if not found:
        raise DataError(f"No image looked at in {source.name} can be read. First: {first}")
    return found


def choose_mode(source: Source, headers: list[tuple[int, Header]], side: int) -> tuple[Mode, str]:
    """The mode that suits what was looked at, and why in words."""
    if file_of(source, headers[0][0]) is None:
        return "raw", "the source has arrays, not files"
    deep = next((h for _, h in headers if not fits_jpeg(h)), None)
    if deep is not None:
        return "lossless", f"there are pixels of {deep.channels} x {deep.dtype}"
    half = median(min(h.height, h.width) for _, h in headers)
    if half > side:
        return "jpeg", f"8-bit, shorter side {half:g} px (median) above {side}"
    return "lossless", f"shorter side {half:g} px (median), not above {side}"


def require_jpeg(source: Source, headers: list[tuple[int, Header]]) -> None:
    """Raise DataError where an image that was looked at is not one for JPEG."""
    for index, header in headers:
        if not fits_jpeg(header):
            values = f"{header.channels} x {header.dtype}"
            raise DataError(
                f"{source.path(index)} has pixels of {values}; JPEG holds 1 or 3 x uint8. Give"
                " --mode lossless"
            )
