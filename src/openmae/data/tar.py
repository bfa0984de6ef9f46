"""Images in tar files: indexed once by their headers, then read by place. Nothing is extracted."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from openmae.data.cache import inside
from openmae.data.memberindex import Index, read_index, write_index
from openmae.data.members import ArchiveSource, Gather, no_images
from openmae.data.remote import is_remote, public
from openmae.data.shards import COMPRESSED, Shard, Shards, find_shards
from openmae.data.source import Source
from openmae.data.values import Decoding
from openmae.errors import DataError

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of one extended header
MAX_CHAIN = 16  # extended headers before one member
_LOCAL, _REMOTE = 1 << 14, 1 << 22  # bytes read at a time while indexing
_MAGIC = {
    b"\x1f\x8b": "gzip (gunzip)",
    b"BZh": "bzip2 (bunzip2)",
    b"\xfd7zXZ": "xz (unxz)",
    b"\x28\xb5\x2f\xfd": "zstd (unzstd)",
}
Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A member as its header tells: raw name, where its data begin, how many bytes."""

    name: str
    offset: int
    size: int
    regular: bool


class TarSource(ArchiveSource):
    """Images of plain tar files."""


def open_tar(data: str, decoding: Decoding | None = None) -> Source | None:
    """The tar files that words name: one, a pattern, a range, here or elsewhere, or a folder of
    them elsewhere; None when they name something else.

    Raises:
        DataError: compressed, broken, or without images.
    """
    refuse_compressed(data)
    return None if os.path.isdir(os.path.expanduser(data)) else open_shards(data, decoding)


def open_shards(data: str, decoding: Decoding | None = None) -> Source | None:
    """As `open_tar`, or a folder here that holds them at any depth."""
    found = find_shards(data, ".tar")
    if found is None:
        return None
    shards, numbers = Shards(found), range(len(found))
    keep = is_remote(data) or not inside(Path(data).expanduser())
    if is_remote(found[0].where):
        with ThreadPoolExecutor(8) as pool:
            pairs = list(pool.map(lambda number: _index(shards, number, keep), numbers))
    else:
        pairs = [_index(shards, number, keep) for number in numbers]
    if not any(len(index.names) for index, _ in pairs):
        raise DataError(no_images(public(data), [g for _, g in pairs if g is not None]))
    return TarSource(public(data), shards, [index for index, _ in pairs], decoding)


def refuse_compressed(data: str) -> None:
    """Raise DataError for words that name a compressed tar: it has no random access."""
    name = Path(public(data)).name
    inner, dot, last = name.lower().rpartition(".")
    tar = inner.endswith(".tar") or (last.startswith("t") and dot + last in COMPRESSED)
    if not tar or dot + last not in COMPRESSED:
        return
    if not is_remote(data) and not Path(data).expanduser().exists():
        return  # what is not there is said elsewhere
    plain = name[: -len(last) - 1] + ("" if inner.endswith(".tar") else ".tar")
    raise DataError(
        f"{public(data)} is a compressed tar, which allows no random access. Run:"
        f" {COMPRESSED[dot + last]} {public(data)}, then give {plain} beside it"
    )


def _index(shards: Shards, number: int, keep: bool) -> tuple[Index, Gather | None]:
    """Of one shard, from the cache or by reading its headers."""
    shard = shards.shards[number]
    kept = read_index("tar", shard)
    if kept is not None:
        return kept[0], None

    def read(start: int, count: int) -> bytes:
        return shards.read(number, start, count)

    index, gathered = index_tar(shard, read, _REMOTE if is_remote(shard.where) else _LOCAL)
    if keep:
        write_index("tar", shard, index)
    return index, gathered


def index_tar(shard: Shard, read: Read, block: int = _LOCAL) -> tuple[Index, Gather]:
    """The images of a tar file, from its headers and its members `.cls` and `.json`.

    Raises:
        DataError: it is not a whole and sound tar file; with the offset.
    """
    window, gathered = Window(read, block), Gather(shard.name)
    for member in members(shard, window):
        suffix = gathered.add(member.name, member.offset, member.size, member.regular)
        if suffix is not None:
            gathered.label(member.name, suffix, window.at(member.offset, member.size))
    return gathered.finish()[0], gathered


class Window:
    """Reads ahead: small parts one behind the other cost one call."""

    def __init__(self, read: Read, block: int) -> None:
        self._read, self._block = read, block
        self._start, self._data = 0, b""

    def at(self, start: int, count: int) -> bytes:
        """`count` bytes from `start` on; fewer at the end."""
        skip = start - self._start
        if skip < 0 or skip + count > len(self._data):
            self._start, self._data = start, self._read(start, max(count, self._block))
            skip = 0
        return self._data[skip : skip + count]


def members(shard: Shard, window: Window) -> Iterator[Member]:
    """The members of a tar file in order. Each header lies behind the one before, so that no header
    can make this endless.

    Raises:
        DataError: no header where one must be, no end, or data beyond the end.
    """
    offset, extended, chain = 0, dict[str, str](), 0
    while True:
        block = window.at(offset, BLOCK)
        if len(block) == BLOCK and not any(block):
            return _end(shard, window, offset)
        info = _header(shard, block, offset)
        size = _size(shard, info, extended, offset)
        data, kind = offset + BLOCK, info.type
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            chain += 1
            if size > MAX_EXTENDED or chain > MAX_CHAIN:
                raise _broken(shard, offset, "an endless extended header")
            _inside(shard, data, size, offset)
            _extend(extended, kind, window.at(data, size), shard, offset)
            offset = data + _whole(size)
            continue
        if kind == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more:  # a list of holes, each part behind the one before
                part = window.at(data, BLOCK)
                _inside(shard, data, BLOCK, offset)
                more, data = part[504], data + BLOCK
        holds = info.isreg() or kind not in tarfile.SUPPORTED_TYPES
        if holds:
            _inside(shard, data, size, offset)
        regular = info.isreg() and kind != tarfile.GNUTYPE_SPARSE and "sparse" not in extended
        if not info.isdir():
            yield Member(extended.get("path", info.name), data, size, regular)
        offset = data + (_whole(size) if holds else 0)
        extended, chain = {}, 0


def _whole(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _header(shard: Shard, block: bytes, offset: int) -> tarfile.TarInfo:
    if len(block) < BLOCK:
        raise _broken(shard, offset, "the file ends without the mark of an end: it is truncated")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError, IndexError) as error:
        if offset == 0:
            for magic, name in _MAGIC.items():
                if block.startswith(magic):
                    raise DataError(
                        f"{shard.name} is compressed by {name}, which allows no random access."
                        " Unpack it to a plain .tar first"
                    ) from None
        raise _broken(shard, offset, f"no header ({error})") from None


def _size(shard: Shard, info: tarfile.TarInfo, extended: dict[str, str], offset: int) -> int:
    size = info.size
    if "size" in extended and info.type not in (b"L", b"K", b"x", b"X", b"g"):
        text = extended["size"]
        size = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
    if size < 0:
        raise _broken(shard, offset, "a size that is no size")
    return size


def _inside(shard: Shard, data: int, size: int, offset: int) -> None:
    if data + size > shard.size:
        raise _broken(
            shard,
            offset,
            f"a member of {size:,} bytes, beyond the end at {shard.size:,}: it is truncated",
        )


def _extend(extended: dict[str, str], kind: bytes, data: bytes, shard: Shard, offset: int) -> None:
    """Take from an extended header what counts: the name and the size, and whether holes are."""
    if kind == b"L":
        extended["path"] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    if kind not in (b"x", b"X"):
        return  # of a link, or of all members, which no writer uses for names
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[at : at + length]
        key, equal, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equal or length > len(data) - at or record[-1:] != b"\n":
            raise _broken(shard, offset, "an extended header that is none")
        if key in (b"path", b"size"):
            extended[key.decode()] = value.decode("utf-8", "surrogateescape")
        elif key.startswith(b"GNU.sparse."):
            extended["sparse"] = "yes"
        at += length


def _end(shard: Shard, window: Window, offset: int) -> None:
    """Behind the mark of the end there may be padding, but no second archive, which would be lost
    without a word.
    """
    stop = min(shard.size, offset + (1 << 20))
    for at in range(offset + BLOCK, stop - BLOCK + 1, BLOCK):
        block = window.at(at, BLOCK)
        if any(block):
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError, OverflowError, IndexError):
                return
            raise DataError(
                f"{shard.name} holds a second archive at {at}, behind its end at {offset}. Join"
                " tars with: tar --concatenate"
            )


def _broken(shard: Shard, offset: int, why: str) -> DataError:
    return DataError(
        f"{shard.name} is broken at byte {offset:,}: {why}. Nothing of it is used: get it again"
    )
