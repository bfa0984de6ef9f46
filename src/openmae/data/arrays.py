"""Images in one NumPy file: .npy, read where it lies (memory-mapped), or .npz.

Which axis holds the channels is decided by the shape alone, see `layout`.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.names import shown
from openmae.data.source import Source
from openmae.data.splits import IN_TEST, IN_TRAIN, numbered
from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError

_MOST_CHANNELS = 16
_MAGIC = b"\x93NUMPY"
_HEADER = 10_000  # bytes; a longer one is no array of images
_UNPACKED = 8 << 30  # bytes of an array of an .npz, which is unpacked in memory
_RATIO, _SMALL = 200, 256 << 20  # an array that unpacks to more, and to this many bytes, is a bomb
_DAMAGE = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)

_IMAGES = ("images", "x", "x_train", "train_images", "data", "arr_0")
_PARTS = (
    (IN_TRAIN, _IMAGES, ("labels", "y", "y_train", "train_labels", "label", "arr_1")),
    (IN_TEST, ("x_test", "test_images"), ("y_test", "test_labels")),
    (IN_TEST, ("x_val", "val_images"), ("y_val", "val_labels")),
)
"""Part, names of its images, names of its labels; of two test parts the first."""


class FileArrays(Source):
    """Images of arrays, each (N, H, W, C) of any type of number, one after another.

    Args:
        parts: arrays by name; images are called NAME/NUMBER.
        line: what says, without reading it, that the file is still the same.
    """

    def __init__(
        self, name: str, parts: Mapping[str, Pixels], line: str, decoding: Decoding | None = None
    ) -> None:
        super().__init__(name, sum(len(part) for part in parts.values()), decoding)
        self.keys, self.parts, self.line = list(parts), list(parts.values()), line
        self._ends = np.cumsum([len(part) for part in self.parts])

    def row_path(self, row: int) -> str:
        """NAME/NUMBER."""
        part, number = self._at(row)
        return f"{self.keys[part]}/{number:08d}"

    def row_image(self, row: int) -> Pixels:
        """A copy, in the byte order of the machine."""
        part, number = self._at(row)
        found = self.parts[part][number]
        return np.array(found, dtype=found.dtype.newbyteorder("="), order="C")

    def row_line(self, row: int) -> str:
        """Name, the file's own line, and the label."""
        line = f"{self.row_path(row)}\t{self.line}"
        return line if self.table_labels is None else f"{line}\t{self.table_labels[row].tolist()}"

    def _at(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._ends, row, side="right"))
        return part, row - (int(self._ends[part - 1]) if part else 0)


class MappedArray(FileArrays):
    """A .npy file: only the images that are asked for are read."""

    def __init__(self, path: Path, decoding: Decoding | None = None) -> None:
        self.file = path
        mapped = _mapped(path)
        line = f"{path.name}\t{path.stat().st_size}\t{mapped.shape} {mapped.dtype.str}"
        images = layout(mapped, str(path))
        super().__init__(str(path), {path.stem: images}, line, decoding)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": None}  # another process maps the file itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.parts = [layout(_mapped(self.file), str(self.file))]


def open_array(data: str, decoding: Decoding) -> Source | None:
    """A .npy or .npz file.

    Raises:
        DataError: it cannot be read, or does not hold images.
    """
    path = Path(data).expanduser()
    kind = path.suffix.lower()
    if kind not in (".npy", ".npz") or not path.is_file():
        return None
    if kind == ".npy":
        return MappedArray(path, decoding)
    return _open_npz(path, decoding)


def layout(array: Pixels, where: str) -> Pixels:
    """An array as (N, H, W, C), without copying.

    (N, H, W) gets one channel. Of four axes, the last or the second holds the channels: the one
    of at most 16; if both or neither is, the one that leaves square images.

    Raises:
        DataError: not an array of images, or the rule does not decide.
    """
    shape = " x ".join(map(str, array.shape))
    if array.dtype.kind not in "buif":
        raise DataError(f"{where} holds {array.dtype} values, not numbers of pixels")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(f"{where} is {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.ndim == 3:
        if array.shape[2] <= 4 < array.shape[1]:
            raise DataError(
                f"{where} is {shape}: one image? Save it as images[None], or as PNG or TIFF"
            )
        return array[..., None]
    _, second, third, last = array.shape
    fits = [last <= _MOST_CHANNELS, second <= _MOST_CHANNELS]
    if fits[0] == fits[1]:
        fits = [second == third, third == last]
    if fits[0] == fits[1]:
        raise DataError(
            f"{where} is {shape}: channels first or last? Not to be seen from the shape. Save the"
            " images as files, or pad a side beyond 16 pixels"
        )
    return array if fits[0] else np.moveaxis(array, 1, -1)


def _mapped(path: Path) -> Pixels:
    with _reading(path):
        with path.open("rb") as file:
            head = _read_header(file, str(path))
        size = path.stat().st_size
        if size < head.end + head.bytes:
            raise DataError(f"{path} is cut short: {size:,} of {head.end + head.bytes:,} bytes")
        if min(head.shape, default=0) < 1:
            raise DataError(f"{path} holds no images: {head.shape}")
        found: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        return found


class _Header(NamedTuple):
    shape: tuple[int, ...]
    bytes: int
    end: int  # where the values begin


def _read_header(file: IO[bytes], where: str) -> _Header:
    """What an array in a file says of itself, from the beginning; the file is left at its values.

    Raises:
        DataError: it is none, or one of Python objects, which could run code.
    """
    start = file.read(12)
    if len(start) < 12 or start[:6] != _MAGIC:
        raise DataError(f"{where} is not a NumPy array")
    length = int.from_bytes(start[8:10] if start[6] == 1 else start[8:12], "little")
    if length > _HEADER:
        raise DataError(f"{where}: a header of {length:,} bytes is no array of images")
    file.seek(0)
    form = np.lib.format
    try:
        old = form.read_magic(file) == (1, 0)
        read = form.read_array_header_1_0 if old else form.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=_HEADER)
    except Exception as error:  # numpy parses it as Python, which fails in many ways
        raise DataError(f"{where} cannot be read: {shown(error)}") from None
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects (images of different sizes?). Save them as image files"
        )
    return _Header(shape, math.prod(shape) * dtype.itemsize, file.tell())


def _open_npz(path: Path, decoding: Decoding) -> FileArrays:
    """Images of the parts that the archive has, with labels (N,) or (N, 1) where they fit."""
    parts: dict[str, Pixels] = {}
    codes: list[NDArray[np.int8]] = []
    labels: list[Any] = []
    with _reading(path), zipfile.ZipFile(path) as archive:
        known = {m.removesuffix(".npy").lower(): m for m in archive.namelist()}
        for code, images, beside in _PARTS:
            key = next((k for k in images if k in known), None)
            if key is None or (code == IN_TEST and any((c == code).any() for c in codes)):
                continue
            parts[key] = layout(_member(archive, known[key], path), f"{path}: {key}")
            codes.append(np.full(len(parts[key]), code, dtype=np.int8))
            name = next((k for k in beside if k in known), None)
            found = None if name is None else _member(archive, known[name], path)
            labels += _labels(found, len(parts[key]))
    if not parts:
        raise DataError(
            f"{path} has no images under a known name ({', '.join(_IMAGES)}); it has:"
            f" {shown(', '.join(known)) or 'nothing'}"
        )
    line = f"{path.name}\t{path.stat().st_size}"
    source = FileArrays(str(path), parts, line, decoding)
    source.classes, source.table_labels = numbered(labels)
    if {int(c[0]) for c in codes} == {IN_TRAIN, IN_TEST}:
        source.table_splits = np.concatenate(codes)
    return source


def _labels(array: NDArray[Any] | None, count: int) -> list[Any]:
    if array is None or array.size != count or array.dtype.kind not in "buiUf":
        return [None] * count
    found: list[Any] = array.reshape(-1).tolist()
    return found


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    """An array of the archive, in memory.

    Raises:
        DataError: it holds objects, or is a bomb.
    """
    info = archive.getinfo(name)
    if info.file_size > _UNPACKED:
        size = info.file_size / 2**30
        raise DataError(
            f"{path}: {name} unpacks to {size:.1f} GiB. Save it as .npy, which is not read whole"
        )
    if info.file_size > max(_SMALL, _RATIO * info.compress_size):
        raise DataError(f"{path}: {name} unpacks to over {_RATIO} times its size: not read")
    with archive.open(info) as file:
        head = _read_header(file, f"{path}: {name}")
        if head.end + head.bytes != info.file_size:
            raise DataError(f"{path}: {name} is not as long as it says")
        file.seek(0)
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # past the end, where the checksum is compared
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path} does not fit into memory. Save the images as .npy") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise DataError(f"{path} cannot be read: {shown(error)}") from None
