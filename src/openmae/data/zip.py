"""Images in a zip file: its own directory is the index, members are read by place. Nothing is
extracted.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from openmae.data.memberindex import Index, read_index, write_index
from openmae.data.members import MAX_MEMBER, ArchiveSource, Gather, clean, no_images
from openmae.data.remote import public
from openmae.data.shards import Shards, find_shards
from openmae.data.source import Source
from openmae.data.values import Decoding
from openmae.errors import DataError

MAX_DIRECTORY = 2 << 30  # bytes of the directory of an archive
MAX_RATIO, FREE = 200, 1 << 24  # bytes out for bytes in; smaller members may be anything
_LOCAL_HEADER = 30  # bytes before the name
_NAME = 1 << 9  # and bytes that name and extra field seldom pass

GOOD, ENCRYPTED, METHOD, BOMB, OVERLAP, OUTSIDE = range(6)
_REASONS = {
    ENCRYPTED: "encrypted in the zip",
    METHOD: "compressed in a way that is not read; only stored and deflated members are",
    BOMB: f"claims more than {MAX_RATIO} times its packed size: a zip bomb",
    OVERLAP: "shares its bytes with another member of the zip",
    OUTSIDE: "lies outside the zip, or its sizes disagree",
}


TYPES = {"packed": np.int64, "crc": np.uint32, "deflated": np.bool_, "state": np.uint8}
"""What the directory of a zip says of an image beside its place and size: compressed size in bytes,
checksum of the unpacked bytes, whether deflated or else stored, GOOD or why it is not read.
"""


def facts_of(infos: list[zipfile.ZipInfo], end: int) -> dict[str, NDArray[Any]]:
    """Arrays (n,) of `TYPES`; `end` is the size of the zip."""
    packed = np.array([i.compress_size for i in infos], dtype=np.int64)
    state = np.array([_state(i) for i in infos], dtype=np.uint8)
    starts = np.array([i.header_offset for i in infos], dtype=np.int64)
    names = np.array([len(i.orig_filename.encode(*_coding(i))) for i in infos], dtype=np.int64)
    stops = starts + _LOCAL_HEADER + names + packed
    state[(starts < 0) | (packed < 0) | (stops > end)] = OUTSIDE
    state[_overlapping(starts, stops) & (state == GOOD)] = OVERLAP
    return {
        "packed": packed,
        "crc": np.array([i.CRC for i in infos], dtype=np.uint32),
        "deflated": np.array([i.compress_type == zipfile.ZIP_DEFLATED for i in infos], dtype=bool),
        "state": state,
    }


class ZipSource(ArchiveSource):
    """Images of a zip file."""

    def __init__(
        self,
        name: str,
        shards: Shards,
        index: Index,
        facts: Mapping[str, NDArray[Any]],
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(name, shards, [index], decoding)
        self.packed, self.crc, self.deflated, self.state = (
            facts[name][self.order] for name in TYPES
        )

    def row_bytes(self, row: int) -> bytes:
        """The bytes of the member, unpacked and compared with their checksum.

        Raises:
            DataError: it is encrypted, a bomb, overlaps another, or is damaged.
        """
        if self.state[row] != GOOD:
            raise DataError(_REASONS.get(int(self.state[row]), "damaged"))
        data = _stored(self.shards, int(self.offsets[row]), int(self.packed[row]))
        return unpack(data, int(self.sizes[row]), int(self.crc[row]), bool(self.deflated[row]))


def unpack(data: bytes, size: int, crc: int, deflated: bool) -> bytes:
    """A member's bytes, never more than the directory says.

    Raises:
        DataError: they are too many, or other bytes than they were.
    """
    if size > MAX_MEMBER:
        raise DataError(f"{size:,} bytes; at most {MAX_MEMBER:,} of an archive are read")
    if deflated:
        try:
            stream = zlib.decompressobj(-zlib.MAX_WBITS)
            data = stream.decompress(data, size + 1)
        except zlib.error as error:
            raise DataError(f"damaged in the zip ({error})") from None
    if len(data) != size:
        raise DataError(f"damaged in the zip: not the {size:,} bytes that its directory tells")
    if zlib.crc32(data) != crc:
        raise DataError("damaged in the zip: its checksum differs")
    return data


def open_zip(data: str, decoding: Decoding | None = None) -> Source | None:
    """The zip file that words name, here or elsewhere; None when they name something else.

    Raises:
        DataError: broken, or without images.
    """
    if Path(data).expanduser().is_dir():
        return None
    found = find_shards(data, ".zip")
    if found is None:
        return None
    if len(found) > 1:
        raise DataError(f"{public(data)} names {len(found)} zip files. Give one, or tar shards")
    shards = Shards(found)
    kept = read_index("zip", found[0], TYPES)
    if kept is None:
        kept = _index(shards, public(data))
        write_index("zip", found[0], *kept)
    return ZipSource(public(data), shards, *kept, decoding)


def _index(shards: Shards, name: str) -> tuple[Index, dict[str, NDArray[Any]]]:
    """From the directory of the zip, and from its members `.cls` and `.json`."""
    shard = shards.shards[0]
    gathered, files = Gather(shard.name), [i for i in _directory(shards) if not i.is_dir()]
    wanted: list[tuple[zipfile.ZipInfo, str, str]] = []
    for info in files:
        member = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
        linked = stat.S_ISLNK(info.external_attr >> 16)
        suffix = gathered.add(member, info.header_offset, info.file_size, not linked)
        if suffix is not None:
            wanted.append((info, member, suffix))
    for info, member, suffix in wanted:
        gathered.label(member, suffix, _read(shards, info))
    index, numbers = gathered.finish()
    if not len(index.names):
        raise DataError(no_images(name, [gathered]))
    return index, {key: array[numbers] for key, array in facts_of(files, shard.size).items()}


def _directory(shards: Shards) -> list[zipfile.ZipInfo]:
    """What the directory of the zip lists.

    Raises:
        DataError: it cannot be read.
    """
    shard = shards.shards[0]
    try:
        with zipfile.ZipFile(cast(IO[bytes], _View(shards))) as archive:
            return archive.infolist()
    except DataError:
        raise
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
        raise DataError(
            f"{shard.name} is broken: {error}. Nothing of it is used: get it again"
        ) from None


class _View(io.RawIOBase):
    """The file that zipfile wants to see, over `Shards`."""

    def __init__(self, shards: Shards) -> None:
        self._shards, self._at = shards, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, self._shards.shards[0].size)[whence]
        if base + offset < 0:
            raise OSError("a place before the beginning")
        self._at = base + offset
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._shards.shards[0].size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        if count > MAX_DIRECTORY:
            raise DataError(f"{self._shards.shards[0].name}: its directory is too large")
        data = self._shards.read(0, self._at, count)
        self._at += len(data)
        return data


def _state(info: zipfile.ZipInfo) -> int:
    if info.flag_bits & 0x1 or info.flag_bits & 0x40 or info.compress_type == 99:
        return ENCRYPTED
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return METHOD
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return OUTSIDE
    if info.file_size > FREE and info.file_size > MAX_RATIO * info.compress_size:
        return BOMB
    return GOOD


def _coding(info: zipfile.ZipInfo) -> tuple[str, str]:
    return ("utf-8" if info.flag_bits & 0x800 else "cp437", "surrogateescape")


def _read(shards: Shards, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a small member."""
    try:
        if _state(info) != GOOD:
            raise DataError(_REASONS[_state(info)])
        data = _stored(shards, info.header_offset, info.compress_size)
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        return unpack(data, info.file_size, info.CRC, deflated)
    except DataError as error:
        raise DataError(f"{shards.shards[0].name}: {clean(info.filename)}: {error}") from None


def _overlapping(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which members share bytes with another one."""
    order = np.argsort(starts, kind="stable")
    first, last = starts[order], np.maximum.accumulate(stops[order])
    found = np.zeros(len(starts), dtype=bool)
    found[order[1:]] = first[1:] < last[:-1]  # begins before an earlier one ends
    following = np.minimum(np.append(first[1:], np.iinfo(np.int64).max), np.iinfo(np.int64).max)
    found[order] |= stops[order] > following
    return found


def _stored(shards: Shards, start: int, packed: int) -> bytes:
    """The packed bytes of a member, whose own header tells where they begin."""
    if packed > MAX_MEMBER:
        raise DataError(f"{packed:,} bytes; at most {MAX_MEMBER:,} of an archive are read")
    block = shards.read(0, start, _LOCAL_HEADER + _NAME + packed)  # almost always in one go
    if block[:4] != b"PK\x03\x04" or len(block) < _LOCAL_HEADER:
        raise DataError("no member where the zip's directory says")
    name, extra = struct.unpack("<HH", block[26:30])
    skip = _LOCAL_HEADER + name + extra
    data = block[skip : skip + packed]
    if len(data) == packed:
        return data
    data = shards.read(0, start + skip, packed)
    if len(data) < packed:
        raise DataError("the zip ends within this image")
    return data
